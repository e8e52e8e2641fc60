//! What `UpstreamTokens` and `MemoryStore` promise, with a real issuer that rotates refresh tokens and detects reuse.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use support::{
    delegated_store::delegate_to_store,
    log::Log,
    owner,
    rotating_issuer::RotatingIssuer,
    store_contract::{self, tokens},
};
use tokio::sync::Notify;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, Clock, ManualClock, MemoryStore, Secret, UpstreamToken,
    UpstreamTokenStore, UpstreamTokens,
    upstream::{
        Claim, Claimed, Lease, LoadedTokens, Provider, ProviderBuilder, ProviderTokens, Refreshed,
        Refresher, Settlement, StoredTokens, TokenOwner, UpstreamFuture,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const LIFETIME: Duration = Duration::from_secs(1000);
const IN_ADVISORY_WINDOW: Duration = Duration::from_secs(810);
const IN_MANDATORY_WINDOW: Duration = Duration::from_secs(975);
const SESSION: &str = "session-7Fjfp0ZBr1KtDRbnfVdmIw";

static ALICE: LazyLock<TokenOwner> = LazyLock::new(|| owner("alice").with_session(SESSION));

/// A session with tokens of one provider, `github`, in a store that can be made to fail.
struct Bench {
    clock: Arc<ManualClock>,
    issuer: RotatingIssuer,
    store: FlakyStore,
    upstream: UpstreamTokens,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|provider| provider).await
    }

    async fn with(set: impl FnOnce(ProviderBuilder) -> ProviderBuilder) -> Self {
        let clock = clock();
        let issuer = RotatingIssuer::start(clock.clone(), LIFETIME).await;
        let store = FlakyStore::new(&clock);
        let provider = set(issuer.provider("github", "gateway")).build().unwrap();
        let upstream = UpstreamTokens::new(store.clone(), [provider]).clock(clock.clone());
        let bench = Self {
            clock,
            issuer,
            store,
            upstream,
        };
        bench.log_in().await;
        bench
    }

    async fn log_in(&self) {
        let tokens = self.issuer.log_in("alice");
        self.store.put(&ALICE, "github", &tokens).await.unwrap();
    }

    /// Another replica on the same store.
    fn replica(&self, set: impl FnOnce(ProviderBuilder) -> ProviderBuilder) -> UpstreamTokens {
        let provider = set(self.issuer.provider("github", "another replica"));
        let provider = provider.build().unwrap();
        UpstreamTokens::new(self.store.clone(), [provider]).clock(self.clock.clone())
    }

    async fn load(&self) -> LoadedTokens {
        self.upstream.load(&ALICE).await.unwrap()
    }

    async fn stored(&self) -> Option<StoredTokens> {
        self.store
            .memory
            .load(&ALICE)
            .await
            .unwrap()
            .remove("github")
    }

    /// Loads, and checks that the token is good where it goes to.
    async fn good_token(&self) -> String {
        self.good(&self.load().await)
    }

    fn good(&self, loaded: &LoadedTokens) -> String {
        let token = access_token(loaded);
        assert_eq!(
            self.issuer.user_of(&token).as_deref(),
            Some("alice"),
            "{token}"
        );
        token
    }

    async fn refreshes_reach(&self, count: usize) {
        until(|| self.issuer.refreshes() >= count).await;
        assert_eq!(self.issuer.refreshes(), count);
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000),
    ))
}

fn access_token(loaded: &LoadedTokens) -> String {
    let token = loaded.tokens().get("github");
    let token = token.unwrap_or_else(|| panic!("no token: {loaded:?}"));
    token.access_token().expose().to_owned()
}

fn requires_login(loaded: &LoadedTokens) -> bool {
    loaded.tokens().is_empty()
        && loaded.failed().is_empty()
        && loaded.login_required().contains_key("github")
}

fn failed(loaded: &LoadedTokens) -> AuthErrorKind {
    assert!(loaded.tokens().is_empty() && loaded.login_required().is_empty());
    loaded.failed()["github"].kind()
}

/// Waits for what happens without the test, and fails if it does not.
async fn until(happened: impl Fn() -> bool) {
    let happens = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), happens).await;
    in_time.expect("it did not happen");
}

/// A `MemoryStore` that fails when it is told to.
#[derive(Clone, Debug)]
struct FlakyStore {
    memory: MemoryStore,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    loads: AtomicBool,
    claims: AtomicBool,
    /// The claim is made, and its answer lost.
    answers_to_claims: AtomicBool,
    settlements: AtomicBool,
    granted: Mutex<Option<Lease>>,
    /// What a load answers that was begun before others wrote.
    overtaken_load: Mutex<Option<BTreeMap<String, StoredTokens>>>,
    loaded: AtomicUsize,
    claimed: AtomicUsize,
    settled: AtomicUsize,
}

impl FlakyStore {
    fn new(clock: &Arc<ManualClock>) -> Self {
        Self {
            memory: MemoryStore::builder().clock(clock.clone()).build().unwrap(),
            faults: Arc::default(),
        }
    }
}

impl FlakyStore {
    /// Forgets the claim, as a store does that is restored from before it.
    async fn forget_claim(&self) {
        let lease = self.faults.granted.lock().unwrap().take().unwrap();
        let released = self
            .memory
            .settle(&ALICE, "github", &lease, &Settlement::Release);
        assert!(released.await.unwrap());
    }
}

fn store_is_down() -> AuthError {
    AuthError::new(AuthErrorKind::Unavailable, "the store is down")
}

impl UpstreamTokenStore for FlakyStore {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        self.faults.loaded.fetch_add(1, Relaxed);
        Box::pin(async move {
            if self.faults.loads.load(SeqCst) {
                return Err(store_is_down());
            }
            let overtaken = self.faults.overtaken_load.lock().unwrap().take();
            match overtaken {
                Some(tokens) => Ok(tokens),
                None => self.memory.load(owner).await,
            }
        })
    }

    delegate_to_store!(memory);

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        Box::pin(async move {
            self.faults.claimed.fetch_add(1, SeqCst);
            if self.faults.claims.load(SeqCst) {
                return Err(store_is_down());
            }
            let claimed = self.memory.claim(owner, provider, claim).await?;
            if self.faults.answers_to_claims.load(SeqCst) {
                return Err(store_is_down());
            }
            if let Claimed::Granted(lease) = claimed {
                *self.faults.granted.lock().unwrap() = Some(lease);
            }
            Ok(claimed)
        })
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        self.memory.renew(owner, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            self.faults.settled.fetch_add(1, SeqCst);
            if self.faults.settlements.load(SeqCst) {
                return Err(store_is_down());
            }
            self.memory.settle(owner, provider, lease, settlement).await
        })
    }
}

/// Answers what the test wants, after it did what the test wants.
struct Scripted<F>(F);

impl<F> std::fmt::Debug for Scripted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl<F> Refresher for Scripted<F>
where
    F: Fn(&ProviderTokens, SystemTime) -> UpstreamFuture<'static, ProviderTokens> + Send + Sync,
{
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let refreshed = (self.0)(tokens, now);
        Box::pin(async move { refreshed.await.map(Into::into) })
    }
}

#[tokio::test]
async fn memory_store_keeps_the_contract() {
    let clock = clock();
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let pass = move |time| {
        clock.advance(time);
        async {}.boxed_local()
    };
    store_contract::check(&store, Box::new(pass)).await;
}

#[tokio::test]
async fn memory_store_is_bounded() {
    let store = MemoryStore::builder().capacity(10).build().unwrap();
    for session in 0..1000 {
        let session = owner(&session.to_string());
        store.put(&session, "github", &tokens("a")).await.unwrap();
    }
    let mut kept = 0;
    for session in 0..1000 {
        kept += store
            .load(&owner(&session.to_string()))
            .await
            .unwrap()
            .len();
    }
    assert!((1..=10).contains(&kept), "{kept}");
    let refused = MemoryStore::builder().capacity(0).build().unwrap_err();
    assert_eq!(refused.invalid_settings()[0].setting(), "capacity");
}

#[tokio::test]
async fn good_tokens_are_loaded_in_one_round_trip_and_not_refreshed() {
    let bench = Bench::new().await;
    let token = bench.good_token().await;
    assert_eq!(bench.good_token().await, token);
    assert_eq!(bench.store.faults.loaded.load(SeqCst), 2);
    assert_eq!(bench.issuer.refreshes(), 0);
}

#[tokio::test]
async fn expired_tokens_are_refreshed_and_stored() {
    let bench = Bench::new().await;
    let old = bench.good_token().await;
    for count in 1..4 {
        bench.clock.advance(LIFETIME);
        let new = bench.good_token().await;
        assert_ne!(new, old);
        assert_eq!(
            bench.good(
                &bench
                    .replica(|provider| provider)
                    .load(&ALICE)
                    .await
                    .unwrap()
            ),
            new
        );
        assert_eq!(bench.issuer.refreshes(), count);
    }
}

#[tokio::test]
async fn expired_tokens_of_several_providers_are_refreshed_side_by_side() {
    let clock = clock();
    let github = RotatingIssuer::start(clock.clone(), LIFETIME).await;
    let google = RotatingIssuer::start(clock.clone(), LIFETIME).await;
    let gates = [github.hold_answers(), google.hold_answers()];
    let store = FlakyStore::new(&clock);
    let providers = [
        github.provider("github", "g"),
        google.provider("google", "g"),
    ]
    .map(|provider| provider.build().unwrap());
    let upstream = UpstreamTokens::new(store.clone(), providers).clock(clock.clone());
    store
        .put(&ALICE, "github", &github.log_in("alice"))
        .await
        .unwrap();
    store
        .put(&ALICE, "google", &google.log_in("alice"))
        .await
        .unwrap();

    clock.advance(LIFETIME);
    let loading = tokio::spawn(upstream.load(&ALICE));
    until(|| github.refreshes() == 1 && google.refreshes() == 1).await;
    for gate in gates {
        gate.add_permits(1);
    }
    let loaded = loading.await.unwrap().unwrap();
    assert_eq!(loaded.tokens().len(), 2);
    assert_eq!(store.faults.loaded.load(SeqCst), 1);
}

#[tokio::test]
async fn f11_many_requests_at_once_cause_one_refresh() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let loading = (0..1000).map(|_| tokio::spawn(bench.upstream.load(&ALICE)));
    let loaded = join_all(loading).await;
    for loaded in loaded {
        bench.good(&loaded.unwrap().unwrap());
    }
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f18_replicas_that_refresh_at_once_spend_a_refresh_token_once() {
    let bench = Bench::new().await;
    let replicas: Vec<_> = (0..8).map(|_| bench.replica(|provider| provider)).collect();
    for count in 1..=5 {
        bench.clock.advance(LIFETIME);
        let loading = replicas
            .iter()
            .map(|replica| tokio::spawn(replica.load(&ALICE)));
        let loading: Vec<_> = loading.collect();
        for loaded in join_all(loading).await {
            bench.good(&loaded.unwrap().unwrap());
        }
        assert_eq!(bench.issuer.refreshes(), count);
    }
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn in_the_advisory_window_nobody_waits() {
    let bench = Bench::new().await;
    let old = bench.good_token().await;
    bench.clock.advance(IN_ADVISORY_WINDOW);
    let gate = bench.issuer.hold_answers();
    for _ in 0..10 {
        assert_eq!(bench.good_token().await, old);
    }
    bench.refreshes_reach(1).await;
    gate.add_permits(1);
    while bench.good_token().await == old {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn logins_that_were_made_together_are_not_refreshed_all_at_once() {
    let bench = Bench::new().await;
    let users: Vec<_> = (0..64).map(|number| format!("user-{number}")).collect();
    for user in &users {
        let tokens = bench.issuer.log_in(user);
        bench
            .store
            .put(&owner(user), "github", &tokens)
            .await
            .unwrap();
    }
    let refreshes_at = async |age: Duration| {
        bench.clock.set(clock().now() + age);
        for user in &users {
            bench.upstream.load(&owner(user)).await.unwrap();
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        bench.store.faults.claimed.load(SeqCst)
    };
    // The advisory window is the last quarter, up to a fifth of it less by chance.
    assert_eq!(refreshes_at(749 * SECOND).await, 0);
    let early = refreshes_at(775 * SECOND).await;
    assert!((1..64).contains(&early), "{early}");
    assert_eq!(refreshes_at(801 * SECOND).await, 64);
}

#[tokio::test]
async fn in_the_mandatory_window_requests_wait() {
    let bench = Bench::new().await;
    let old = bench.good_token().await;
    bench.clock.advance(IN_MANDATORY_WINDOW);
    assert_ne!(bench.good_token().await, old);
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f14_good_tokens_are_used_to_their_end_when_an_early_refresh_fails() {
    let bench = Bench::new().await;
    let old = bench.good_token().await;
    bench.issuer.set_down(true);
    bench.clock.advance(IN_MANDATORY_WINDOW);
    assert_eq!(bench.good_token().await, old);
    bench.clock.advance(LIFETIME - IN_MANDATORY_WINDOW - SECOND);
    assert_eq!(bench.good_token().await, old);
    bench.clock.advance(SECOND);
    assert_eq!(failed(&bench.load().await), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn f14_good_tokens_are_used_to_their_end_when_an_early_refresh_is_refused() {
    let bench = Bench::new().await;
    let old = access_token(&bench.load().await);
    bench.issuer.revoke("alice");
    bench.clock.advance(IN_MANDATORY_WINDOW);
    for _ in 0..10 {
        assert_eq!(access_token(&bench.load().await), old);
    }
    assert_eq!(
        bench.issuer.refreshes(),
        1,
        "a refused refresh token is gone"
    );
    bench.clock.advance(LIFETIME);
    assert!(requires_login(&bench.load().await));
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f12_a_request_that_is_given_up_does_not_stop_the_refresh() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    bench.good_token().await;
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f15_a_refresh_that_failed_is_tried_again_and_other_providers_still_work() {
    let bench = Bench::new().await;
    let google = RotatingIssuer::start(bench.clock.clone(), LIFETIME).await;
    bench
        .store
        .put(&ALICE, "google", &google.log_in("alice"))
        .await
        .unwrap();
    let providers = [
        bench.issuer.provider("github", "g"),
        google.provider("google", "g"),
    ]
    .map(|provider| provider.build().unwrap());
    let upstream = UpstreamTokens::new(bench.store.clone(), providers).clock(bench.clock.clone());

    bench.clock.advance(LIFETIME);
    bench.issuer.set_down(true);
    for _ in 0..10 {
        let loaded = upstream.load(&ALICE).await.unwrap();
        assert!(loaded.tokens().contains_key("google") && loaded.login_required().is_empty());
        let error = &loaded.failed()["github"];
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert_eq!(error.provider(), Some("github"));
        assert!(error.retry_after().is_some());
    }
    assert_eq!(bench.issuer.refreshes(), 1, "no retry before its time");

    bench.issuer.set_down(false);
    bench.clock.advance(2 * SECOND);
    bench.good(&upstream.load(&ALICE).await.unwrap());
}

#[tokio::test]
async fn f17_a_refused_refresh_drops_the_tokens_and_asks_for_a_log_in() {
    let bench = Bench::new().await;
    bench.issuer.revoke("alice");
    bench.clock.advance(LIFETIME);
    assert!(requires_login(&bench.load().await));
    assert!(bench.stored().await.is_none());

    bench.log_in().await;
    bench.good_token().await;
}

#[tokio::test]
async fn f17_a_rotated_refresh_token_is_stored_and_the_old_one_is_not_presented_again() {
    let bench = Bench::new().await;
    for count in 1..=3 {
        bench.clock.advance(LIFETIME);
        bench.good_token().await;
        assert_eq!(bench.issuer.refreshes(), count);
    }
    assert_eq!(bench.issuer.presented_again(), 0);
    assert!(bench.issuer.killed().is_empty());
}

/// Lets a replica die after the issuer spent the refresh token, and before the answer got through.
async fn die_while_spending(bench: &Bench, provider: ProviderBuilder) {
    let provider = provider.build().unwrap();
    let upstream = UpstreamTokens::new(bench.store.clone(), [provider]).clock(bench.clock.clone());
    bench.issuer.hold_answers();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let loading = runtime.spawn(upstream.load(&ALICE));
    bench.refreshes_reach(1).await;
    runtime.shutdown_background();
    assert!(loading.await.unwrap_err().is_cancelled());
    bench.issuer.hold_no_more();
}

#[tokio::test]
async fn f17_a_refresh_token_that_may_have_been_spent_by_a_replica_that_died_is_not_replayed() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    die_while_spending(&bench, bench.issuer.provider("github", "dead")).await;

    bench.clock.advance(11 * SECOND);
    assert_eq!(failed(&bench.load().await), AuthErrorKind::Unavailable);
    assert!(bench.stored().await.is_some());
    bench.clock.advance(120 * SECOND);
    assert!(requires_login(&bench.load().await));
    assert!(bench.stored().await.is_none());
    assert_eq!(bench.issuer.refreshes(), 1);
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn f17_where_the_provider_has_a_grace_period_a_replica_that_died_costs_no_log_in() {
    let grace = |provider: ProviderBuilder| provider.grace(Duration::from_secs(60));
    let bench = Bench::with(grace).await;
    bench.clock.advance(LIFETIME);
    die_while_spending(&bench, grace(bench.issuer.provider("github", "dead"))).await;

    bench.issuer.forgive("dead");
    bench.clock.advance(11 * SECOND);
    bench.good_token().await;
    assert_eq!(bench.issuer.presented_again(), 1);
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn f17_tokens_that_cannot_be_stored_are_used_and_stored_as_soon_as_it_can_be() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    bench.store.faults.settlements.store(true, SeqCst);
    let token = bench.good_token().await;
    assert_eq!(bench.good_token().await, token);
    until(|| bench.store.faults.settled.load(SeqCst) >= 3).await;
    assert_eq!(bench.good_token().await, token);

    bench.store.faults.settlements.store(false, SeqCst);
    let replica = bench.replica(|provider| provider);
    assert_eq!(bench.good(&replica.load(&ALICE).await.unwrap()), token);
    assert_eq!(bench.issuer.refreshes(), 1);
}

impl Bench {
    async fn stored_token(&self) -> Option<String> {
        let stored = self.stored().await?;
        let token = stored.tokens().token().access_token();
        Some(token.expose().to_owned())
    }

    async fn is_stored(&self, token: &str) {
        let stored = async {
            while self.stored_token().await.as_deref() != Some(token) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(60 * SECOND, stored).await;
        in_time.expect("it was not stored");
    }
}

#[tokio::test]
async fn f63_tokens_are_stored_when_the_store_is_back_without_the_claim() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    bench.store.faults.settlements.store(true, SeqCst);
    let token = bench.good_token().await;
    bench.store.forget_claim().await;
    bench.store.faults.settlements.store(false, SeqCst);

    bench.is_stored(&token).await;
    let replica = bench.replica(|provider| provider);
    assert_eq!(bench.good(&replica.load(&ALICE).await.unwrap()), token);
    bench.clock.advance(LIFETIME);
    bench.good(&replica.load(&ALICE).await.unwrap());
    assert_eq!(bench.issuer.presented_again(), 0);
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn f63_a_store_that_forgets_the_claim_and_fails_costs_the_waiting_request_nothing() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;
    bench.store.forget_claim().await;
    bench.store.faults.claims.store(true, SeqCst);
    gate.add_permits(1);
    let token = bench.good(&loading.await.unwrap().unwrap());
    // The claim that failed is not taken back: the refresh token was spent.
    tokio::time::sleep(100 * Duration::from_millis(1)).await;
    bench.store.faults.claims.store(false, SeqCst);
    bench.is_stored(&token).await;
    assert_eq!(bench.issuer.presented_again(), 0);
}

#[tokio::test]
async fn f63_a_store_that_goes_back_to_older_tokens_gets_the_newest_ones() {
    let bench = Bench::new().await;
    let oldest = bench.stored().await.unwrap();
    bench.clock.advance(LIFETIME);
    bench.good_token().await;
    bench.clock.advance(LIFETIME);
    bench.store.faults.settlements.store(true, SeqCst);
    let token = bench.good_token().await;
    let restore = async || {
        let restored = bench.store.memory.put(&ALICE, "github", oldest.tokens());
        restored.await.unwrap();
    };
    restore().await;
    bench.store.faults.settlements.store(false, SeqCst);
    bench.is_stored(&token).await;

    // It goes back between a load and the claim.
    bench.clock.advance(LIFETIME);
    let read = bench.store.memory.load(&ALICE).await.unwrap();
    restore().await;
    *bench.store.faults.overtaken_load.lock().unwrap() = Some(read);
    let newest = bench.good_token().await;
    assert_eq!(bench.stored_token().await, Some(newest));
    assert_eq!(bench.issuer.presented_again(), 0);
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn f63_tokens_that_cannot_be_stored_in_time_are_told() {
    let bench = Bench::new().await;
    let answers = Scripted(
        |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> {
            Box::pin(async { Ok(tokens("fresh")) })
        },
    );
    let provider = Provider::builder("github", answers).build().unwrap();
    let upstream = UpstreamTokens::new(bench.store.clone(), [provider]).clock(bench.clock.clone());
    bench.clock.advance(LIFETIME);
    bench.store.faults.settlements.store(true, SeqCst);
    let log = Log::default();
    let _captured = log.capture("warn");
    tokio::time::pause();
    upstream.load(&ALICE).await.unwrap();
    assert!(log.text().contains("not stored yet"), "{}", log.text());
    assert!(!log.text().contains("ERROR"), "{}", log.text());
    tokio::time::sleep(200 * SECOND).await;
    let said = log.text();
    assert!(said.contains("ERROR") && said.contains("is lost"), "{said}");
    assert!(
        said.contains("github") && !said.contains("-fresh"),
        "{said}"
    );
}

/// Two providers: `github`, whose tokens are good for 20 s, and `google`, whose answers are held.
struct Two {
    clock: Arc<ManualClock>,
    github: RotatingIssuer,
    google: RotatingIssuer,
    gate: Arc<tokio::sync::Semaphore>,
    upstream: UpstreamTokens,
}

impl Two {
    async fn new() -> Self {
        let clock = clock();
        let github = RotatingIssuer::start(clock.clone(), 20 * SECOND).await;
        let google = RotatingIssuer::start(clock.clone(), 1000 * SECOND).await;
        let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
        let expired = google.log_in("alice");
        store.put(&ALICE, "google", &expired).await.unwrap();
        clock.advance(1000 * SECOND);
        let tokens = github.log_in("alice");
        store.put(&ALICE, "github", &tokens).await.unwrap();
        let gate = google.hold_answers();
        let providers = [
            github.provider("github", "gateway"),
            google.provider("google", "gateway"),
        ]
        .map(|provider| provider.build().unwrap());
        Self {
            upstream: UpstreamTokens::new(store, providers).clock(clock.clone()),
            clock,
            github,
            google,
            gate,
        }
    }

    /// Loads, and lets time pass while `google` is waited for.
    async fn load_while(&self, passes: impl AsyncFnOnce()) -> LoadedTokens {
        let loading = tokio::spawn(self.upstream.load(&ALICE));
        until(|| self.google.refreshes() == 1).await;
        passes().await;
        self.gate.add_permits(1);
        let loaded = loading.await.unwrap().unwrap();
        assert_eq!(loaded.tokens().len(), 2, "{loaded:?}");
        loaded
    }
}

#[tokio::test]
async fn f81_stored_tokens_are_remembered_for_a_minute_and_no_longer() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let read = bench.store.memory.load(&ALICE).await.unwrap();
    let token = bench.good_token().await;
    // As a request does that loaded the old tokens before.
    let load_old = async || {
        *bench.store.faults.overtaken_load.lock().unwrap() = Some(read.clone());
        assert_eq!(bench.good_token().await, token);
        bench.store.faults.claimed.load(SeqCst)
    };
    tokio::time::pause();
    assert_eq!(load_old().await, 1);
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!(load_old().await, 2, "the store is asked");
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f69_a_token_that_expires_while_another_provider_is_waited_for_is_refreshed() {
    let two = Two::new().await;
    two.clock.advance(10 * SECOND);
    let loaded = two
        .load_while(async || two.clock.advance(30 * SECOND))
        .await;
    let user = two.github.user_of(&access_token(&loaded));
    assert_eq!(user.as_deref(), Some("alice"), "it has expired");
    assert_eq!(two.github.refreshes(), 1);
}

#[tokio::test]
async fn f69_a_refreshed_token_that_expires_while_another_provider_is_waited_for_is_refreshed() {
    let two = Two::new().await;
    two.clock.advance(20 * SECOND);
    let loaded = two
        .load_while(async || {
            until(|| two.github.refreshes() == 1).await;
            // Its answer has to arrive before the time passes.
            tokio::time::sleep(Duration::from_millis(200)).await;
            two.clock.advance(30 * SECOND);
        })
        .await;
    let user = two.github.user_of(&access_token(&loaded));
    assert_eq!(user.as_deref(), Some("alice"), "it has expired");
    assert_eq!(two.github.refreshes(), 2);
}

#[tokio::test]
async fn f69_what_was_refreshed_while_another_provider_was_waited_for_is_taken() {
    let two = Two::new().await;
    let old = two.github.log_in("alice");
    let old = old.token().access_token().expose().to_owned();
    two.clock.advance(16 * SECOND);
    let loaded = two
        .load_while(async || {
            until(|| two.github.refreshes() == 1).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        })
        .await;
    assert_ne!(access_token(&loaded), old);
    let remaining = loaded.tokens()["github"].expires_at().unwrap();
    assert_eq!(remaining, two.clock.now() + 20 * SECOND);
}

#[tokio::test]
async fn f18_the_loser_of_a_race_reads_the_winners_tokens_and_removes_nothing() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let winner = bench.issuer.log_in("alice");
    let (store, won) = (bench.store.clone(), winner.clone());
    let refused_after_another_won = Scripted(
        move |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> {
            let (store, won) = (store.clone(), won.clone());
            Box::pin(async move {
                store.put(&ALICE, "github", &won).await?;
                Err(AuthError::new(AuthErrorKind::Rejected, "invalid_grant"))
            })
        },
    );
    let provider = Provider::builder("github", refused_after_another_won)
        .build()
        .unwrap();
    let loser = UpstreamTokens::new(bench.store.clone(), [provider]).clock(bench.clock.clone());

    let winner = winner.token().access_token().expose().to_owned();
    let loaded = loser.load(&ALICE).await.unwrap();
    assert_eq!(access_token(&loaded), winner);
    let stored = bench.stored().await.unwrap();
    let token = stored.tokens().token();
    assert_eq!(token.access_token().expose(), winner);
}

/// A replica reads tokens that have expired; before it can claim them, another one refreshes them, and time passes.
async fn overtaken(bench: &Bench, meanwhile: Duration) -> (String, LoadedTokens) {
    bench.clock.advance(LIFETIME);
    let read = bench.store.load(&ALICE).await.unwrap();
    let winners = bench.replica(|provider| provider);
    let winners = access_token(&winners.load(&ALICE).await.unwrap());
    bench.clock.advance(meanwhile);
    *bench.store.faults.overtaken_load.lock().unwrap() = Some(read);
    (winners, bench.load().await)
}

#[tokio::test]
async fn f18_good_tokens_that_another_replica_got_before_are_used_as_they_are() {
    let bench = Bench::new().await;
    let (winners, loaded) = overtaken(&bench, SECOND).await;
    assert_eq!(bench.good(&loaded), winners);
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f18_tokens_that_another_replica_got_and_that_have_expired_since_are_refreshed_again() {
    let bench = Bench::new().await;
    let (winners, loaded) = overtaken(&bench, LIFETIME).await;
    assert_ne!(bench.good(&loaded), winners);
    assert_eq!(bench.issuer.refreshes(), 2);
}

#[tokio::test]
async fn who_waits_for_another_replica_asks_the_store_a_few_times_a_second() {
    let bench = Bench::new().await;
    let upstream = UpstreamTokens::new(bench.store.clone(), [never()]).clock(bench.clock.clone());
    bench.clock.advance(LIFETIME);
    let version = bench.stored().await.unwrap().version();
    let another = Claim::new(version, 3600 * SECOND);
    bench.store.claim(&ALICE, "github", &another).await.unwrap();
    tokio::time::pause();
    let waiting = tokio::time::timeout(20 * SECOND, upstream.load(&ALICE));
    waiting.await.unwrap_err();
    let claims = bench.store.faults.claimed.load(SeqCst);
    assert!((40..=100).contains(&claims), "{claims}");
}

#[tokio::test]
async fn what_could_not_be_stored_is_tried_again_a_few_times_a_second_and_given_up() {
    let bench = Bench::new().await;
    let answers = Scripted(
        |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> {
            Box::pin(async { Ok(tokens("fresh")) })
        },
    );
    let provider = Provider::builder("github", answers).build().unwrap();
    let upstream = UpstreamTokens::new(bench.store.clone(), [provider]).clock(bench.clock.clone());
    bench.clock.advance(LIFETIME);
    bench.store.faults.settlements.store(true, SeqCst);
    tokio::time::pause();
    upstream.load(&ALICE).await.unwrap();
    tokio::time::sleep(20 * SECOND).await;
    let settlements = bench.store.faults.settled.load(SeqCst);
    assert!((40..=100).contains(&settlements), "{settlements}");
    tokio::time::sleep(3600 * SECOND).await;
    let settlements = bench.store.faults.settled.load(SeqCst);
    assert!((400..=560).contains(&settlements), "{settlements}");
}

#[tokio::test]
async fn f19_a_store_that_is_down_is_no_busy_holder() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    bench.store.faults.claims.store(true, SeqCst);
    // Time that a holder would be waited for does not pass here.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    assert_eq!(failed(&bench.load().await), AuthErrorKind::Unavailable);
    assert_eq!(started.elapsed(), Duration::ZERO);
    tokio::time::resume();

    bench.store.faults.loads.store(true, SeqCst);
    let error = bench.upstream.load(&ALICE).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(bench.issuer.refreshes(), 0);
}

#[tokio::test]
async fn f19_a_claim_whose_answer_was_lost_is_taken_back_and_spends_nothing() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    bench.store.faults.answers_to_claims.store(true, SeqCst);
    assert_eq!(failed(&bench.load().await), AuthErrorKind::Unavailable);
    assert_eq!(bench.issuer.refreshes(), 0);

    bench.store.faults.answers_to_claims.store(false, SeqCst);
    bench.clock.advance(60 * SECOND);
    let replica = bench.replica(|provider| provider);
    loop {
        let loaded = replica.load(&ALICE).await.unwrap();
        if loaded.failed().is_empty() {
            bench.good(&loaded);
            break;
        }
        // The lease that nobody knew of has lapsed by this clock, and is in doubt until it is taken back.
        bench.clock.advance(2 * SECOND);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f20_a_refused_refresh_token_is_presented_once_in_ten_seconds() {
    let bench = Bench::new().await;
    bench.issuer.revoke("alice");
    bench.clock.advance(LIFETIME);
    // So that it cannot even be removed.
    bench.store.faults.settlements.store(true, SeqCst);
    for _ in 0..100 {
        assert!(requires_login(&bench.load().await));
    }
    assert_eq!(bench.issuer.refreshes(), 1);

    bench.store.faults.settlements.store(false, SeqCst);
    while bench.stored().await.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn f36_tokens_are_refreshed_before_the_id_token_that_is_used_expires() {
    for uses_id_token in [false, true] {
        let clock = clock();
        let issuer = RotatingIssuer::start(clock.clone(), LIFETIME).await;
        issuer.issue_id_tokens(LIFETIME / 10, true);
        let mut provider = issuer.provider("github", "gateway");
        if uses_id_token {
            provider = provider.uses_id_token();
        }
        let provider = provider.build().unwrap();
        let store = MemoryStore::new();
        store
            .put(&ALICE, "github", &issuer.log_in("alice"))
            .await
            .unwrap();
        let upstream = UpstreamTokens::new(store, [provider]).clock(clock.clone());
        let id_token = async || {
            let loaded = upstream.load(&ALICE).await.unwrap();
            loaded.tokens()["github"]
                .id_token()
                .unwrap()
                .expose()
                .to_owned()
        };
        let old = id_token().await;
        clock.advance(LIFETIME / 10);
        assert_eq!(id_token().await != old, uses_id_token);
        assert_eq!(issuer.refreshes(), usize::from(uses_id_token));
    }
}

#[tokio::test]
async fn an_id_token_that_a_refresh_does_not_renew_is_kept() {
    let bench = Bench::with(ProviderBuilder::uses_id_token).await;
    bench.issuer.issue_id_tokens(2 * LIFETIME, false);
    bench.log_in().await;
    let id_token = |loaded: &LoadedTokens| {
        let token = loaded.tokens()["github"].id_token().unwrap();
        token.expose().to_owned()
    };
    let old = id_token(&bench.load().await);
    bench.clock.advance(LIFETIME);
    let loaded = bench.load().await;
    bench.good(&loaded);
    assert_eq!(id_token(&loaded), old);

    // It is what is used, and it cannot be had anew.
    bench.clock.advance(LIFETIME);
    assert!(requires_login(&bench.load().await));
    assert_eq!(bench.issuer.refreshes(), 2);
    assert!(requires_login(&bench.load().await));
    assert_eq!(bench.issuer.refreshes(), 2);
}

#[tokio::test]
async fn a_lease_that_runs_out_mid_refresh_may_still_be_settled_by_its_holder() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;

    bench.clock.advance(11 * SECOND);
    let replica = bench.replica(|provider| provider);
    let error = failed(&replica.load(&ALICE).await.unwrap());
    assert_eq!(error, AuthErrorKind::Unavailable);

    gate.add_permits(1);
    let token = bench.good(&loading.await.unwrap().unwrap());
    assert_eq!(bench.good(&replica.load(&ALICE).await.unwrap()), token);
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn a_holder_whose_lease_was_taken_over_is_refused_and_reads_what_the_other_stored() {
    let grace = |provider: ProviderBuilder| provider.grace(Duration::from_secs(60));
    let bench = Bench::with(grace).await;
    bench.issuer.forgive("gateway");
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;

    bench.issuer.hold_no_more();
    bench.clock.advance(11 * SECOND);
    let replica = bench.replica(grace);
    let token = bench.good(&replica.load(&ALICE).await.unwrap());
    gate.add_permits(1);
    assert_eq!(bench.good(&loading.await.unwrap().unwrap()), token);
    assert_eq!(bench.good_token().await, token);
}

#[tokio::test]
async fn a_log_out_during_a_refresh_stays() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;
    bench.store.remove(&ALICE).await.unwrap();
    gate.add_permits(1);
    assert!(requires_login(&loading.await.unwrap().unwrap()));
    assert!(bench.stored().await.is_none());
}

#[tokio::test]
async fn a_log_in_during_a_refresh_stays() {
    let bench = Bench::new().await;
    bench.clock.advance(LIFETIME);
    let gate = bench.issuer.hold_answers();
    let loading = tokio::spawn(bench.upstream.load(&ALICE));
    bench.refreshes_reach(1).await;
    bench.log_in().await;
    let newest = bench.good_token().await;
    gate.add_permits(1);
    assert_eq!(bench.good(&loading.await.unwrap().unwrap()), newest);
    assert_eq!(bench.good_token().await, newest);
}

#[tokio::test]
async fn a_refresher_that_panics_or_hangs_up_is_a_failure_of_its_provider_alone() {
    let bench = Bench::new().await;
    let panics = Scripted(
        |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> {
            Box::pin(async { panic!("on purpose") })
        },
    );
    let providers = [
        bench.issuer.provider("github", "gateway"),
        Provider::builder("broken", panics),
    ]
    .map(|provider| provider.build().unwrap());
    let upstream = UpstreamTokens::new(bench.store.clone(), providers).clock(bench.clock.clone());
    bench
        .store
        .put(&ALICE, "broken", &tokens("a"))
        .await
        .unwrap();
    bench.clock.advance(100 * LIFETIME);
    let loaded = upstream.load(&ALICE).await.unwrap();
    bench.good(&loaded);
    assert_eq!(loaded.failed()["broken"].kind(), AuthErrorKind::Unavailable);
}

/// Of a provider whose answer never comes.
fn never() -> Provider {
    let never = Scripted(
        |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> {
            Box::pin(std::future::pending())
        },
    );
    Provider::builder("github", never).build().unwrap()
}

#[tokio::test]
async fn a_refresher_that_never_answers_is_given_up() {
    let bench = Bench::new().await;
    let upstream = UpstreamTokens::new(bench.store.clone(), [never()]).clock(bench.clock.clone());
    bench.clock.advance(LIFETIME);
    tokio::time::pause();
    let loaded = upstream.load(&ALICE).await.unwrap();
    assert_eq!(failed(&loaded), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn a_lease_is_renewed_as_long_as_its_holder_lives_and_no_longer() {
    let bench = Bench::new().await;
    let upstream = UpstreamTokens::new(bench.store.clone(), [never()]).clock(bench.clock.clone());
    bench.clock.advance(LIFETIME);
    tokio::time::pause();
    let held = bench.stored().await.unwrap().version();
    let claim = async || {
        let claim = Claim::new(held, SECOND);
        bench.store.claim(&ALICE, "github", &claim).await.unwrap()
    };
    let loading = tokio::spawn(upstream.load(&ALICE));
    let pass = async |time: Duration| {
        bench.clock.advance(time);
        tokio::time::advance(time).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    pass(Duration::ZERO).await;
    for _ in 0..8 {
        pass(4 * SECOND).await;
        assert!(matches!(claim().await, Claimed::Held(_)));
    }
    // After 35 s the refresher is given up.
    pass(4 * SECOND).await;
    assert_eq!(
        failed(&loading.await.unwrap().unwrap()),
        AuthErrorKind::Unavailable
    );
    assert!(matches!(claim().await, Claimed::Granted(_)));
}

#[tokio::test]
async fn missing_tokens_need_a_log_in_unless_the_provider_is_optional() {
    let bench = Bench::new().await;
    let loaded = bench.upstream.load(&owner("unknown")).await.unwrap();
    assert!(requires_login(&loaded));
    let replica = bench.replica(ProviderBuilder::optional);
    let loaded = replica.load(&owner("unknown")).await.unwrap();
    assert!(loaded.login_required().is_empty() && loaded.tokens().is_empty());
}

#[tokio::test]
async fn tokens_that_cannot_be_refreshed_are_used_to_their_end() {
    let bench = Bench::new().await;
    let now = bench.clock.now();
    let token = |name: &str| UpstreamToken::new(AccessToken::new(name).unwrap());
    let put = async |provider: &str, tokens: ProviderTokens| {
        bench.store.put(&ALICE, provider, &tokens).await.unwrap();
    };
    // A provider that is not configured, a token without a refresh token, and one without an end.
    put(
        "unknown",
        ProviderTokens::new(token("a").with_expires_at(now + LIFETIME), now),
    )
    .await;
    put(
        "github",
        ProviderTokens::new(token("b").with_expires_at(now + LIFETIME), now),
    )
    .await;
    put("endless", ProviderTokens::new(token("c"), now)).await;
    bench.clock.advance(LIFETIME - SECOND);
    assert_eq!(bench.load().await.tokens().len(), 3);
    bench.clock.advance(SECOND);
    let loaded = bench.load().await;
    assert_eq!(loaded.tokens().keys().collect::<Vec<_>>(), ["endless"]);
    assert_eq!(loaded.login_required().len(), 2);
    assert_eq!(bench.issuer.refreshes(), 0);
}

#[tokio::test]
async fn f16_a_token_without_an_end_is_refreshed_after_five_minutes() {
    let bench = Bench::new().await;
    let issued = bench.issuer.log_in("alice");
    let token = UpstreamToken::new(issued.token().access_token().clone());
    let tokens = ProviderTokens::new(token, bench.clock.now())
        .with_refresh_token(issued.refresh_token().unwrap().clone());
    bench.store.put(&ALICE, "github", &tokens).await.unwrap();
    let old = bench.good_token().await;
    bench.clock.advance(300 * SECOND);
    assert_ne!(bench.good_token().await, old);
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let bench = Bench::new().await;
    let tokens = bench.issuer.log_in("alice");
    let loaded = bench.load().await;
    bench.clock.advance(LIFETIME);
    bench.issuer.set_down(true);
    let failed = bench.load().await;
    let shown = format!(
        "{:?} {tokens:?} {loaded:?} {failed:?} {} {:?}",
        bench.upstream,
        failed.failed()["github"],
        bench.stored().await,
    );
    for secret in ["access-alice", "refresh-alice", SESSION] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let shown = format!("{shown} {:?}", bench.upstream.load(&ALICE));
    for witness in ["UpstreamTokens {", "MemoryStore {", "LoadingTokens {"] {
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
}

#[test]
fn a_provider_needs_a_name() {
    let refresher = Scripted(
        |_: &ProviderTokens, _| -> UpstreamFuture<'static, ProviderTokens> { unreachable!() },
    );
    let error = Provider::builder(" ", refresher).build().unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "name");
}

/// Issues tokens when it is told to.
#[derive(Clone, Debug, Default)]
struct Told {
    asked: Arc<Notify>,
    answer: Arc<Notify>,
}

impl Refresher for Told {
    fn refresh(&self, _: &ProviderTokens, now: SystemTime) -> UpstreamFuture<'static, Refreshed> {
        let this = self.clone();
        Box::pin(async move {
            this.asked.notify_one();
            this.answer.notified().await;
            Ok(of_account("private", 2, now).into())
        })
    }
}

/// Tokens whose ID token names this account, for 10 s.
fn of_account(name: &str, issue: u32, at: SystemTime) -> ProviderTokens {
    let claims = json!({ "iss": "https://idp.example.com", "sub": name });
    let [header, claims] = [json!({}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let secret = |text: String| Secret::new(text).unwrap();
    let token = UpstreamToken::new(AccessToken::new(format!("{name}-{issue}")).unwrap())
        .with_expires_at(at + 10 * SECOND)
        .with_id_token(secret(format!("{header}.{claims}.c2ln")));
    ProviderTokens::new(token, at).with_refresh_token(secret(format!("refresh-{name}-{issue}")))
}

#[tokio::test]
async fn f96_another_account_that_is_linked_during_a_refresh_stays_whatever_its_clock_says() {
    let (clock, told) = (clock(), Told::default());
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let provider = Provider::builder("github", told.clone()).build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [provider]).clock(clock.clone());
    let private = of_account("private", 1, clock.now());
    store.put(&ALICE, "github", &private).await.unwrap();
    clock.advance(11 * SECOND);
    let loading = tokio::spawn(upstream.load(&ALICE));
    told.asked.notified().await;

    // By a replica whose clock is far behind, so that this looks like the state of a backup.
    let linked = of_account("work", 1, clock.now() - 12 * SECOND);
    let token = linked
        .token()
        .clone()
        .with_expires_at(clock.now() + 100 * SECOND);
    let linked = ProviderTokens::new(token, linked.issued_at());
    store.put(&ALICE, "github", &linked).await.unwrap();
    told.answer.notify_one();

    let loaded = loading.await.unwrap().unwrap();
    assert_eq!(access_token(&loaded), "work-1");
    let stored = store.load(&ALICE).await.unwrap();
    let stored = stored["github"].tokens().token().access_token();
    assert_eq!(stored.expose(), "work-1");
}
