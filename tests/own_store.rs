//! A store of one's own, written with nothing but the public API, keeps the contract of every store.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use support::{log::Log, owner, store_contract};
use tower_identity::{
    AccessToken, Clock, ManualClock, UpstreamToken, UpstreamTokenStore, UpstreamTokens,
    upstream::{
        Claim, Claimed, Lease, OwnerKey, Provider, ProviderTokens, Refreshed, Refresher,
        Settlement, StoredTokens, TokenOwner, UpstreamFuture, Version,
    },
};

/// A table of rows, as a database would have it.
#[derive(Debug)]
struct OwnStore {
    table: Mutex<Table>,
    clock: Arc<ManualClock>,
    /// Whether it finds tokens by the session alone, as it should not.
    forgets_user: bool,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Key, Row>,
    /// By which attempt an id was used, and for how long that counts.
    used: BTreeMap<[u8; 32], (u128, SystemTime)>,
    last_fence: u64,
}

/// An owner's key and the provider.
type Key = (Vec<u8>, String);

#[derive(Debug)]
struct Row {
    user: [u8; 32],
    version: [u8; 16],
    tokens: ProviderTokens,
    claimed: Option<Claimant>,
}

#[derive(Debug)]
struct Claimant {
    holder: u128,
    fence: u64,
    since: SystemTime,
    until: SystemTime,
}

impl Row {
    fn new(stored: &StoredTokens) -> Self {
        Self {
            user: stored.user().to_bytes(),
            version: stored.version().to_bytes(),
            tokens: stored.tokens().clone(),
            claimed: None,
        }
    }

    fn stored(&self) -> StoredTokens {
        let user = OwnerKey::from_bytes(self.user);
        let version = Version::from_bytes(self.version);
        StoredTokens::restored(user, self.tokens.clone(), version)
    }

    fn is_held_by(&self, lease: &Lease) -> bool {
        let fence = self.claimed.as_ref().map(|claimant| claimant.fence);
        self.version == lease.version().to_bytes() && fence == Some(lease.fence())
    }
}

impl OwnStore {
    fn new(clock: Arc<ManualClock>) -> Self {
        Self {
            table: Mutex::default(),
            clock,
            forgets_user: false,
        }
    }

    fn owner(&self, owner: &TokenOwner) -> Vec<u8> {
        match owner.session() {
            Some(session) if self.forgets_user => session.as_bytes().to_vec(),
            _ => owner.key().to_bytes().to_vec(),
        }
    }

    fn key(&self, owner: &TokenOwner, provider: &str) -> Key {
        (self.owner(owner), provider.to_owned())
    }

    fn claim_now(&self, key: &Key, claim: &Claim) -> Claimed {
        let now = self.clock.now();
        let table = &mut *self.table.lock().unwrap();
        let Some(row) = table.rows.get_mut(key) else {
            return Claimed::Gone;
        };
        if row.version != claim.version().to_bytes() {
            return Claimed::Superseded(row.stored());
        }
        let mut since = now;
        if let Some(claimant) = &mut row.claimed {
            if claimant.holder == claim.holder() {
                claimant.until = later(now, claim.lease_time());
                return Claimed::Granted(Lease::new(claim.version(), claimant.fence));
            }
            if now < claimant.until {
                return Claimed::Held(claimant.until.duration_since(now).unwrap());
            }
            let age = now.duration_since(claimant.since).unwrap();
            if age >= claim.grace() {
                if age < claim.in_doubt_for() {
                    return Claimed::InDoubt(claim.in_doubt_for() - age);
                }
                table.rows.remove(key);
                return Claimed::Gone;
            }
            since = claimant.since;
        }
        table.last_fence += 1;
        row.claimed = Some(Claimant {
            holder: claim.holder(),
            fence: table.last_fence,
            since,
            until: later(now, claim.lease_time()),
        });
        Claimed::Granted(Lease::new(claim.version(), table.last_fence))
    }

    fn settle_now(&self, key: &Key, lease: &Lease, settlement: &Settlement) -> bool {
        let rows = &mut self.table.lock().unwrap().rows;
        let Some(row) = rows.get_mut(key) else {
            return false;
        };
        if let Settlement::Replace(stored) = settlement
            && row.version == stored.version().to_bytes()
        {
            return true;
        }
        if !row.is_held_by(lease) {
            return false;
        }
        match settlement {
            Settlement::Replace(stored) => *row = Row::new(stored),
            Settlement::Remove => drop(rows.remove(key)),
            Settlement::Release => row.claimed = None,
        }
        true
    }
}

impl UpstreamTokenStore for OwnStore {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        let table = self.table.lock().unwrap();
        let owner = self.owner(owner);
        let rows = table.rows.iter().filter(|((of, _), _)| *of == owner);
        let tokens = rows.map(|((_, provider), row)| (provider.clone(), row.stored()));
        Box::pin(ready(Ok(tokens.collect())))
    }

    fn put<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        let row = Row::new(&StoredTokens::new(owner, tokens.clone()));
        let rows = &mut self.table.lock().unwrap().rows;
        rows.insert(self.key(owner, provider), row);
        Box::pin(ready(Ok(())))
    }

    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        let owner = self.owner(owner);
        let rows = &mut self.table.lock().unwrap().rows;
        rows.retain(|(of, _), _| *of != owner);
        Box::pin(ready(Ok(())))
    }

    fn remove_provider<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
    ) -> UpstreamFuture<'a, ()> {
        let rows = &mut self.table.lock().unwrap().rows;
        rows.remove(&self.key(owner, provider));
        Box::pin(ready(Ok(())))
    }

    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        let user = user.user_key().to_bytes();
        let rows = &mut self.table.lock().unwrap().rows;
        rows.retain(|_, row| row.user != user);
        Box::pin(ready(Ok(())))
    }

    fn providers<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>> {
        let user = user.user_key().to_bytes();
        let table = self.table.lock().unwrap();
        let rows = table.rows.iter().filter(|(_, row)| row.user == user);
        let providers = rows.map(|((_, provider), _)| provider.clone());
        Box::pin(ready(Ok(providers.collect())))
    }

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        let claimed = self.claim_now(&self.key(owner, provider), claim);
        Box::pin(ready(Ok(claimed)))
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        let rows = &mut self.table.lock().unwrap().rows;
        let row = rows.get_mut(&self.key(owner, provider));
        let held = row.filter(|row| row.is_held_by(lease));
        let claimant = held.and_then(|row| row.claimed.as_mut());
        let until = later(self.clock.now(), time);
        let renewed = claimant.map(|claimant| claimant.until = until);
        Box::pin(ready(Ok(renewed.is_some())))
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        let settled = self.settle_now(&self.key(owner, provider), lease, settlement);
        Box::pin(ready(Ok(settled)))
    }

    fn use_once<'a>(
        &'a self,
        id: [u8; 32],
        attempt: u128,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        let now = self.clock.now();
        let used = &mut self.table.lock().unwrap().used;
        used.retain(|_, (_, until)| now < *until);
        let (by, _) = used.entry(id).or_insert((attempt, now + time));
        Box::pin(ready(Ok(*by == attempt)))
    }
}

fn later(now: SystemTime, time: Duration) -> SystemTime {
    now + time.min(Duration::from_secs(1 << 35))
}

fn clock() -> Arc<ManualClock> {
    let some_day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Arc::new(ManualClock::new(some_day))
}

#[tokio::test]
async fn a_store_of_ones_own_keeps_the_contract() {
    let clock = clock();
    let store = OwnStore::new(clock.clone());
    let pass = move |time| {
        clock.advance(time);
        async {}.boxed_local()
    };
    store_contract::check(&store, Box::new(pass)).await;
}

/// Issues tokens for an hour, and needs no token endpoint.
#[derive(Debug)]
struct OwnRefresher;

impl Refresher for OwnRefresher {
    fn refresh(
        &self,
        _tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let token = UpstreamToken::new(AccessToken::new("refreshed").unwrap());
        let token = token.with_expires_at(now + Duration::from_secs(3600));
        Box::pin(ready(Ok(ProviderTokens::new(token, now).into())))
    }
}

#[tokio::test]
async fn tokens_are_loaded_from_it_and_refreshed_by_a_refresher_of_ones_own() {
    let clock = clock();
    let store: Arc<dyn UpstreamTokenStore> = Arc::new(OwnStore::new(clock.clone()));
    store
        .put(
            &owner("alice"),
            "github",
            &store_contract::tokens("at-login"),
        )
        .await
        .unwrap();
    let github = Provider::builder("github", OwnRefresher).build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [github]).clock(clock);

    let tokens = upstream.load(&owner("alice")).await.unwrap();
    let token = tokens.tokens()["github"].access_token();
    assert_eq!(token.expose(), "refreshed");
    let stored = store.load(&owner("alice")).await.unwrap();
    let token = stored["github"].tokens().token().access_token();
    assert_eq!(token.expose(), "refreshed");
}

#[tokio::test]
async fn f65_tokens_that_a_store_finds_by_the_session_alone_are_given_to_no_other_user() {
    let clock = clock();
    let mut store = OwnStore::new(clock.clone());
    store.forgets_user = true;
    let store = Arc::new(store);
    let session = |user: &str| owner(user).with_session("session-1");
    let tokens = store_contract::tokens("alice");
    store
        .put(&session("alice"), "github", &tokens)
        .await
        .unwrap();
    store
        .put(&session("alice"), "other", &tokens)
        .await
        .unwrap();
    let github = Provider::builder("github", OwnRefresher).build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [github]).clock(clock);

    let log = Log::default();
    let captured = log.capture("warn");
    let loaded = upstream.load(&session("mallory")).await.unwrap();
    assert!(loaded.tokens().is_empty() && loaded.failed().is_empty());
    assert_eq!(
        loaded.login_required().keys().collect::<Vec<_>>(),
        ["github"]
    );
    drop(captured);
    let said = log.text();
    assert!(
        said.contains("ERROR") && said.contains("of another user"),
        "{said}"
    );
    assert!(
        !said.contains("session-1") && !said.contains("mallory"),
        "{said}"
    );
    // They are neither refreshed nor removed.
    let stored = store.load(&session("alice")).await.unwrap();
    let token = stored["github"].tokens().token().access_token();
    assert_eq!(token.expose(), "access-alice");

    let loaded = upstream.load(&session("alice")).await.unwrap();
    assert_eq!(
        loaded.tokens()["github"].access_token().expose(),
        "refreshed"
    );
}
