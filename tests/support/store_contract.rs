//! What every `UpstreamTokenStore` promises.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use tower_identity::{
    AccessToken, Secret, UpstreamToken, UpstreamTokenStore,
    upstream::{
        Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, TokenOwner, Version,
    },
};

use super::owner;

const LIFETIME: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);
/// A store need not believe that a lease lasts longer than its holder can be in doubt, which is a minute here.
const LONG: Duration = Duration::from_secs(60);

/// Lets some time of the store's clock pass.
pub(crate) type Pass = Box<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()>>>>;

pub(crate) fn tokens(name: &str) -> ProviderTokens {
    let issued_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_750_000_000_123);
    let token = UpstreamToken::new(AccessToken::new(format!("access-{name}")).unwrap())
        .with_expires_at(issued_at + LIFETIME)
        .with_id_token(Secret::new(format!("id-{name}")).unwrap());
    // Some are bound to a key, or their refresh token is.
    let token = if name == "b" {
        token.with_dpop_thumbprint("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")
    } else {
        token
    };
    let tokens = ProviderTokens::new(token, issued_at)
        .with_refresh_token(Secret::new(format!("refresh-{name}")).unwrap());
    match name {
        "a" => tokens.with_refresh_thumbprint("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        _ => tokens,
    }
}

fn describe(tokens: &ProviderTokens) -> String {
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {:?}",
        tokens.token().access_token().expose(),
        tokens.token().id_token().map(Secret::expose),
        tokens.refresh_token().map(Secret::expose),
        tokens.token().expires_at(),
        tokens.issued_at(),
        tokens.token().dpop_thumbprint(),
        tokens.refresh_thumbprint(),
    )
}

struct Contract<'a> {
    store: &'a dyn UpstreamTokenStore,
    owner: TokenOwner,
}

impl Contract<'_> {
    async fn stored(&self) -> Option<StoredTokens> {
        self.store.load(&self.owner).await.unwrap().remove("github")
    }

    async fn put(&self, name: &str) -> Version {
        self.store
            .put(&self.owner, "github", &tokens(name))
            .await
            .unwrap();
        self.stored().await.unwrap().version()
    }

    async fn claim(&self, claim: &Claim) -> Claimed {
        self.store
            .claim(&self.owner, "github", claim)
            .await
            .unwrap()
    }

    async fn granted(&self, claim: &Claim) -> Lease {
        match self.claim(claim).await {
            Claimed::Granted(lease) => lease,
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> bool {
        self.store
            .settle(&self.owner, "github", lease, settlement)
            .await
            .unwrap()
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> bool {
        self.store
            .renew(&self.owner, "github", lease, time)
            .await
            .unwrap()
    }

    fn replace(&self, name: &str) -> Settlement {
        Settlement::Replace(StoredTokens::new(&self.owner, tokens(name)))
    }

    async fn holds(&self, name: &str) -> bool {
        let stored = self.stored().await;
        stored.is_some_and(|stored| describe(stored.tokens()) == describe(&tokens(name)))
    }
}

/// Runs the whole contract on an empty store.
pub(crate) async fn check(store: &dyn UpstreamTokenStore, pass: Pass) {
    check_for(store, &pass, owner).await;
    check_for(store, &pass, |user| owner(user).with_session("session-1")).await;
    owners_are_apart(store).await;
    a_log_out_everywhere_removes_every_session(store).await;
    providers_are_listed(store).await;
    an_id_is_used_once(store, &pass).await;
}

async fn check_for(
    store: &dyn UpstreamTokenStore,
    pass: &Pass,
    owner: impl Fn(&str) -> TokenOwner,
) {
    let at = |user| Contract {
        store,
        owner: owner(user),
    };
    tokens_come_back_as_they_were_put(at("put")).await;
    one_holder_at_a_time(at("one holder")).await;
    a_settled_lease_is_over(at("settled")).await;
    a_refresh_does_not_undo_a_log_in(at("log-in")).await;
    a_refresh_does_not_undo_a_log_out(at("log-out")).await;
    a_lapsed_lease_leaves_doubt(at("doubt"), pass).await;
    a_doubt_ends_with_the_tokens(at("end of doubt"), pass).await;
    a_grace_lets_another_try(at("grace"), pass).await;
    a_renewed_lease_lasts(at("renewed"), pass).await;
    a_lease_can_be_as_long_as_can_be(at("long lease"), pass).await;
    removal_compares(at("removal")).await;
    one_provider_is_removed(at("unlinked")).await;
}

async fn tokens_come_back_as_they_were_put(contract: Contract<'_>) {
    let (store, owner) = (contract.store, &contract.owner);
    let another = super::owner("another");
    assert!(store.load(owner).await.unwrap().is_empty());
    let issued_at = SystemTime::UNIX_EPOCH;
    let bare = UpstreamToken::new(AccessToken::new("bare").unwrap());
    let bare = ProviderTokens::new(bare, issued_at);
    store.put(owner, "bare", &bare).await.unwrap();
    store.put(owner, "github", &tokens("a")).await.unwrap();
    store.put(&another, "github", &tokens("b")).await.unwrap();

    let loaded = store.load(owner).await.unwrap();
    assert_eq!(loaded.keys().collect::<Vec<_>>(), ["bare", "github"]);
    assert_eq!(describe(loaded["bare"].tokens()), describe(&bare));
    assert_eq!(describe(loaded["github"].tokens()), describe(&tokens("a")));
    assert_ne!(loaded["bare"].version(), loaded["github"].version());

    assert_eq!(loaded["github"].user(), owner.user_key());

    store.remove(owner).await.unwrap();
    store.remove(owner).await.unwrap();
    assert!(store.load(owner).await.unwrap().is_empty());
    assert_eq!(store.load(&another).await.unwrap().len(), 1);
}

async fn one_holder_at_a_time(contract: Contract<'_>) {
    let version = contract.put("a").await;
    let (first, second) = (Claim::new(version, LONG), Claim::new(version, LONG));
    let lease = contract.granted(&first).await;
    let Claimed::Held(left) = contract.claim(&second).await else {
        panic!("two holders");
    };
    assert!(left > LONG / 2 && left <= LONG, "{left:?}");
    assert_eq!(
        contract.granted(&first).await,
        lease,
        "asked twice, granted once"
    );

    assert!(contract.settle(&lease, &Settlement::Release).await);
    let next = contract.granted(&second).await;
    assert!(next.fence() > lease.fence());
    assert!(!contract.renew(&lease, LONG).await);
    assert!(!contract.settle(&lease, &contract.replace("late")).await);
    assert!(!contract.settle(&lease, &Settlement::Remove).await);
    assert!(!contract.settle(&lease, &Settlement::Release).await);
    assert!(contract.holds("a").await);
    assert!(contract.settle(&next, &contract.replace("b")).await);
    assert!(contract.holds("b").await);
}

async fn a_settled_lease_is_over(contract: Contract<'_>) {
    let version = contract.put("a").await;
    let claim = Claim::new(version, LONG);
    let lease = contract.granted(&claim).await;
    let settlement = contract.replace("b");
    assert!(contract.settle(&lease, &settlement).await);
    assert!(
        contract.settle(&lease, &settlement).await,
        "the same again does no harm"
    );
    assert!(!contract.settle(&lease, &contract.replace("c")).await);
    assert!(!contract.renew(&lease, LONG).await);
    let Claimed::Superseded(newer) = contract.claim(&claim).await else {
        panic!("the old version can be claimed");
    };
    assert_eq!(describe(newer.tokens()), describe(&tokens("b")));
    let next = contract.granted(&Claim::new(newer.version(), LONG)).await;
    assert!(next.fence() > lease.fence());
}

async fn a_refresh_does_not_undo_a_log_in(contract: Contract<'_>) {
    let lease = Claim::new(contract.put("a").await, LONG);
    let lease = contract.granted(&lease).await;
    let version = contract.put("b").await;
    assert!(
        !contract
            .settle(&lease, &contract.replace("refreshed"))
            .await
    );
    assert!(!contract.settle(&lease, &Settlement::Remove).await);
    assert!(contract.holds("b").await);
    contract.granted(&Claim::new(version, LONG)).await;
}

async fn a_refresh_does_not_undo_a_log_out(contract: Contract<'_>) {
    let claim = Claim::new(contract.put("a").await, LONG);
    let lease = contract.granted(&claim).await;
    contract.store.remove(&contract.owner).await.unwrap();
    assert!(!contract.renew(&lease, LONG).await);
    assert!(
        !contract
            .settle(&lease, &contract.replace("refreshed"))
            .await
    );
    assert!(contract.stored().await.is_none());
    assert!(matches!(contract.claim(&claim).await, Claimed::Gone));

    // The same tokens after another log-in are another version.
    contract.put("a").await;
    assert!(
        !contract
            .settle(&lease, &contract.replace("refreshed"))
            .await
    );
    assert!(contract.holds("a").await);
}

async fn a_lapsed_lease_leaves_doubt(contract: Contract<'_>, pass: &Pass) {
    let version = contract.put("a").await;
    let lease = contract.granted(&Claim::new(version, SHORT)).await;
    pass(SHORT).await;
    let other = Claim::new(version, LONG);
    let Claimed::InDoubt(left) = contract.claim(&other).await else {
        panic!("a refresh token that may be spent can be claimed");
    };
    assert!(left > Duration::from_secs(30), "{left:?}");
    assert!(contract.holds("a").await);
    assert!(contract.settle(&lease, &contract.replace("b")).await);
    assert!(contract.holds("b").await);
}

async fn a_doubt_ends_with_the_tokens(contract: Contract<'_>, pass: &Pass) {
    let version = contract.put("a").await;
    let claim = || Claim::new(version, SHORT).with_in_doubt_for(2 * SHORT);
    let lease = contract.granted(&claim()).await;
    pass(3 * SHORT).await;
    assert!(matches!(contract.claim(&claim()).await, Claimed::Gone));
    assert!(contract.stored().await.is_none());
    assert!(!contract.settle(&lease, &contract.replace("late")).await);
    assert!(contract.stored().await.is_none());
}

async fn a_grace_lets_another_try(contract: Contract<'_>, pass: &Pass) {
    let version = contract.put("a").await;
    let claim = Claim::new(version, SHORT).with_grace(LONG);
    let first = contract.granted(&claim).await;
    pass(SHORT).await;
    let other = Claim::new(version, LONG).with_grace(LONG);
    let second = contract.granted(&other).await;
    assert!(second.fence() > first.fence());
    assert!(!contract.renew(&first, LONG).await);
    assert!(
        !contract.settle(&first, &contract.replace("first")).await,
        "an old fence writes"
    );
    assert!(matches!(contract.claim(&claim).await, Claimed::Held(_)));
    assert!(contract.settle(&second, &contract.replace("second")).await);
    assert!(contract.holds("second").await);
}

async fn a_renewed_lease_lasts(contract: Contract<'_>, pass: &Pass) {
    let version = contract.put("a").await;
    let lease = contract.granted(&Claim::new(version, SHORT)).await;
    assert!(contract.renew(&lease, LONG).await);
    pass(2 * SHORT).await;
    let other = Claim::new(version, SHORT);
    assert!(matches!(contract.claim(&other).await, Claimed::Held(_)));
}

async fn a_lease_can_be_as_long_as_can_be(contract: Contract<'_>, pass: &Pass) {
    let version = contract.put("a").await;
    let claim = || {
        Claim::new(version, Duration::MAX)
            .with_grace(Duration::MAX)
            .with_in_doubt_for(Duration::MAX)
    };
    let (first, second) = (claim(), claim());
    let lease = contract.granted(&first).await;
    assert_eq!(contract.granted(&first).await, lease);
    pass(SHORT).await;
    assert!(matches!(contract.claim(&second).await, Claimed::Held(_)));
    assert!(contract.renew(&lease, Duration::MAX).await);
    pass(SHORT).await;
    assert!(matches!(contract.claim(&second).await, Claimed::Held(_)));
    assert!(contract.settle(&lease, &Settlement::Release).await);
    contract.granted(&second).await;
}

async fn removal_compares(contract: Contract<'_>) {
    let lease = Claim::new(contract.put("a").await, LONG);
    let lease = contract.granted(&lease).await;
    let elsewhere = Lease::new(Version::from_bytes([7; 16]), lease.fence());
    assert!(!contract.settle(&elsewhere, &Settlement::Remove).await);
    assert!(contract.holds("a").await);
    assert!(contract.settle(&lease, &Settlement::Remove).await);
    assert!(contract.stored().await.is_none());
}

async fn owners_are_apart(store: &dyn UpstreamTokenStore) {
    let issuers = ["https://issuer.example.com", "https://issuer.example.co"];
    let subjects = ["mapart", "apart"];
    let sessions = [None, Some("a"), Some("b"), Some("")];
    let mut owners = Vec::new();
    for (issuer, subject) in issuers.into_iter().zip(subjects) {
        for subject in [subject, "apart-too"] {
            let user = TokenOwner::new(issuer, subject).unwrap();
            owners.extend(sessions.map(|session| match session {
                Some(session) => user.clone().with_session(session),
                None => user.clone(),
            }));
        }
    }
    for (number, owner) in owners.iter().enumerate() {
        let tokens = tokens(&number.to_string());
        store.put(owner, "github", &tokens).await.unwrap();
    }
    for (number, owner) in owners.iter().enumerate() {
        let loaded = store.load(owner).await.unwrap();
        assert_eq!(loaded["github"].user(), owner.user_key());
        let expected = describe(&tokens(&number.to_string()));
        assert_eq!(describe(loaded["github"].tokens()), expected);
    }
    // A log-out ends one session, and no other.
    store.remove(&owners[1]).await.unwrap();
    for (number, owner) in owners.iter().enumerate() {
        let is_empty = store.load(owner).await.unwrap().is_empty();
        assert_eq!(is_empty, number == 1);
    }
}

async fn a_log_out_everywhere_removes_every_session(store: &dyn UpstreamTokenStore) {
    let (user, another) = (owner("everywhere"), owner("everywhere else"));
    let sessions = ["a", "b", "c"].map(|session| user.clone().with_session(session));
    let mut owners = vec![user.clone()];
    owners.extend(sessions.clone());
    let others = [another.clone(), another.with_session("a")];
    for owner in owners.iter().chain(&others) {
        store.put(owner, "github", &tokens("a")).await.unwrap();
    }
    let version = store.load(&sessions[0]).await.unwrap()["github"].version();
    let claim = Claim::new(version, LONG);
    let claimed = store.claim(&sessions[0], "github", &claim).await.unwrap();
    let Claimed::Granted(lease) = claimed else {
        panic!("not granted: {claimed:?}");
    };

    // Whatever session it is asked from.
    store.remove_user(&sessions[1]).await.unwrap();
    store.remove_user(&sessions[1]).await.unwrap();
    let refreshed = Settlement::Replace(StoredTokens::new(&sessions[0], tokens("refreshed")));
    let settled = store.settle(&sessions[0], "github", &lease, &refreshed);
    assert!(!settled.await.unwrap());
    for owner in &owners {
        assert!(store.load(owner).await.unwrap().is_empty());
    }
    assert!(store.providers(&user).await.unwrap().is_empty());
    for owner in &others {
        assert_eq!(store.load(owner).await.unwrap().len(), 1);
    }

    store
        .put(&sessions[2], "github", &tokens("a"))
        .await
        .unwrap();
    assert_eq!(store.load(&sessions[2]).await.unwrap().len(), 1);
    store.remove_user(&user).await.unwrap();
    assert!(store.load(&sessions[2]).await.unwrap().is_empty());
}

async fn providers_are_listed(store: &dyn UpstreamTokenStore) {
    let user = owner("lister");
    assert!(store.providers(&user).await.unwrap().is_empty());
    let session = user.clone().with_session("a");
    for (owner, provider) in [(&user, "github"), (&session, "slack"), (&session, "github")] {
        store.put(owner, provider, &tokens("a")).await.unwrap();
    }
    let version = store.load(&user).await.unwrap()["github"].version();
    let claim = Claim::new(version, LONG);
    store.claim(&user, "github", &claim).await.unwrap();
    for asked in [&user, &session] {
        let providers = store.providers(asked).await.unwrap();
        assert_eq!(providers.iter().collect::<Vec<_>>(), ["github", "slack"]);
    }
}

async fn one_provider_is_removed(contract: Contract<'_>) {
    let (store, owner) = (contract.store, &contract.owner);
    store.remove_provider(owner, "github").await.unwrap();
    let version = contract.put("old").await;
    store.put(owner, "slack", &tokens("slack")).await.unwrap();
    let claim = Claim::new(version, LONG);
    let lease = contract.granted(&claim).await;
    store.remove_provider(owner, "github").await.unwrap();
    assert!(
        !contract
            .settle(&lease, &contract.replace("refreshed"))
            .await
    );
    let left = store.load(owner).await.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), ["slack"]);
    contract.put("new").await;
    assert!(contract.holds("new").await, "and it can be put again");
    contract
        .granted(&Claim::new(
            contract.stored().await.unwrap().version(),
            LONG,
        ))
        .await;
}

async fn an_id_is_used_once(store: &dyn UpstreamTokenStore, pass: &Pass) {
    let ids: [[u8; 32]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| fastrand::u8(..)));
    let used = async |id, attempt| store.use_once(id, attempt, SHORT).await.unwrap();
    assert!(used(ids[0], 1).await);
    assert!(used(ids[0], 1).await, "the same attempt, asked again");
    assert!(!used(ids[0], 2).await);
    assert!(used(ids[1], 2).await, "another id");
    pass(SHORT * 2).await;
    assert!(used(ids[0], 2).await, "it is forgotten by then");

    let attempts = (0..50).map(|attempt| store.use_once(ids[1], 100 + attempt, LONG));
    let outcomes = futures_util::future::join_all(attempts).await;
    let used = outcomes.into_iter().filter(|used| *used.as_ref().unwrap());
    assert_eq!(used.count(), 1, "of many at once");
}
