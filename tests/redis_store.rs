//! What `RedisStore` promises, with a real Redis that stalls, restarts, drops connections and fails over, and with
//! replicas that are processes and are killed.

mod support;

use std::{
    env,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::join_all};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use support::{
    owner,
    redis::{Proxy, RedisServer},
    rotating_issuer::{self, RotatingIssuer},
    store_contract::{self, tokens},
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower_identity::{
    AuthError, AuthErrorKind, RedisStore, SystemClock, UpstreamTokenStore, UpstreamTokens,
    upstream::{
        Claim, Claimed, LoadedTokens, ProviderBuilder, RedisStoreBuilder, SealingKey, Settlement,
        StoredTokens, TokenOwner,
    },
};

const SESSION: &str = "session-7Fjfp0ZBr1KtDRbnfVdmIw";
const MOMENT: Duration = Duration::from_millis(10);
const LEASE_TIME: Duration = Duration::from_millis(300);
const GRACE: Duration = Duration::from_secs(60);

static ALICE: LazyLock<TokenOwner> = LazyLock::new(|| owner("alice-7Fjfp0ZBr1KtDRbnfVdmIw"));

fn key(number: u8) -> SealingKey {
    SealingKey::new([number; 32])
}

fn store_at(url: &str) -> RedisStoreBuilder {
    // What a busy machine takes its time for is no fault of Redis.
    RedisStore::builder(url, key(1)).response_limit(Duration::from_secs(20))
}

/// It is waited for where Redis stalls, and long enough for a busy machine where it does not.
fn impatient_store_at(url: &str) -> RedisStore {
    let limit = Duration::from_secs(2);
    store_at(url).response_limit(limit).build().unwrap()
}

async fn only(store: &RedisStore) -> Result<Option<StoredTokens>, AuthError> {
    Ok(store.load(&ALICE).await?.remove("github"))
}

async fn holds(store: &RedisStore, name: &str) -> bool {
    let stored = only(store).await.unwrap();
    stored.is_some_and(|stored| {
        stored.tokens().token().access_token().expose() == format!("access-{name}")
    })
}

async fn put(store: &RedisStore, name: &str) -> Result<(), AuthError> {
    store.put(&ALICE, "github", &tokens(name)).await
}

fn kind<T: std::fmt::Debug>(result: Result<T, AuthError>) -> AuthErrorKind {
    result.unwrap_err().kind()
}

/// Waits for what happens without the test, and fails if it does not.
async fn until<R: Future<Output = bool>>(happened: impl Fn() -> R) {
    let happens = async {
        while !happened().await {
            sleep(MOMENT).await;
        }
    };
    let in_time = timeout(Duration::from_secs(60), happens).await;
    in_time.expect("it did not happen");
}

/// An issuer, and replicas of a gateway that share a Redis.
struct Bench {
    issuer: RotatingIssuer,
}

impl Bench {
    /// The session's access token has expired.
    async fn with_expired_session(store: &RedisStore) -> Self {
        let issuer = RotatingIssuer::start(Arc::new(SystemClock), Duration::ZERO).await;
        let expired = issuer.log_in("alice");
        store.put(&ALICE, "github", &expired).await.unwrap();
        issuer.set_lifetime(Duration::from_secs(3600));
        Self { issuer }
    }

    fn replica(
        &self,
        id: &str,
        store: &RedisStore,
        set: impl Fn(ProviderBuilder) -> ProviderBuilder,
    ) -> UpstreamTokens {
        let provider = set(self.issuer.provider("github", id)).build().unwrap();
        UpstreamTokens::new(store.clone(), [provider]).lease_time(LEASE_TIME)
    }

    /// Lets a replica load until the issuer has spent the refresh token, and not yet answered.
    async fn spends(&self, replica: &UpstreamTokens) -> (Loading, Arc<Semaphore>) {
        let gate = self.issuer.hold_answers();
        let loading = tokio::spawn(replica.load(&ALICE));
        until(async || self.issuer.refreshes() == 1).await;
        self.issuer.hold_no_more();
        (loading, gate)
    }

    fn good(&self, loaded: &LoadedTokens) -> String {
        let token = loaded.tokens().get("github");
        let token = token.unwrap_or_else(|| panic!("no token: {loaded:?}"));
        let token = token.access_token().expose().to_owned();
        assert_eq!(
            self.issuer.user_of(&token).as_deref(),
            Some("alice"),
            "{token}"
        );
        token
    }
}

type Loading = JoinHandle<Result<LoadedTokens, AuthError>>;

#[tokio::test]
async fn redis_store_keeps_the_contract() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    let pass = |time| sleep(time + MOMENT).boxed_local();
    store_contract::check(&store, Box::new(pass)).await;
}

#[tokio::test]
async fn times_that_no_clock_can_express_are_as_long_as_can_be() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = RedisStore::builder(server.url(), key(1))
        .response_limit(Duration::MAX)
        .time_to_live(Duration::MAX);
    let store = store.build().unwrap();
    put(&store, "a").await.unwrap();
    assert!(holds(&store, "a").await);
    let session = ALICE.clone().with_session(SESSION);
    store.put(&session, "github", &tokens("a")).await.unwrap();
    store.remove_user(&ALICE).await.unwrap();
    assert!(!holds(&store, "a").await);
}

#[tokio::test]
async fn a_load_is_one_command() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    for provider in ["github", "google", "gitlab"] {
        store
            .put(&ALICE, provider, &tokens(provider))
            .await
            .unwrap();
    }
    let () = server.ask("CONFIG RESETSTAT");
    assert_eq!(store.load(&ALICE).await.unwrap().len(), 3);
    let statistics: String = server.ask("INFO commandstats");
    let commands: Vec<_> = statistics
        .lines()
        .filter(|line| line.starts_with("cmdstat_h"))
        .collect();
    assert!(
        commands.len() == 1 && commands[0].starts_with("cmdstat_hgetall:calls=1,"),
        "{statistics}"
    );
    assert!(!statistics.contains("cmdstat_eval"), "{statistics}");
}

#[tokio::test]
async fn who_reads_redis_learns_neither_tokens_nor_users_nor_sessions() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).prefix("gateway:").build().unwrap();
    put(&store, "a").await.unwrap();
    let version = only(&store).await.unwrap().unwrap().version();
    let claim = Claim::new(version, GRACE);
    store.claim(&ALICE, "github", &claim).await.unwrap();
    let session = ALICE.clone().with_session(SESSION);
    store.put(&session, "github", &tokens("a")).await.unwrap();

    let keys = server.keys();
    assert_eq!(keys.len(), 3, "{keys:?}");
    let marks: Vec<String> = server.ask("KEYS *:run:*");
    assert_eq!(marks.len(), 2, "{marks:?}");
    let mut stored = format!("{keys:?} {marks:?}");
    for key in &keys {
        assert!(key.starts_with("gateway:{"), "{keys:?}");
        let read = match key.ends_with(":sessions") {
            true => format!("ZRANGE {key} 0 -1"),
            false => format!("HGETALL {key}"),
        };
        for value in server.ask::<Vec<Vec<u8>>>(&read) {
            stored.push_str(&String::from_utf8_lossy(&value));
        }
    }
    for secret in [
        "access-",
        "refresh-",
        "id-a",
        "issuer.example",
        "alice",
        SESSION,
    ] {
        assert!(!stored.contains(secret), "{stored}");
    }
    let shown = format!(
        "{store:?} {:?} {:?}",
        key(1),
        store_at("redis://:pw-Xq3@localhost/")
    );
    for witness in [
        r#"RedisStore { prefix: "gateway:", keys: 1, .. }"#,
        "SealingKey([redacted])",
        "RedisStoreBuilder { keys: 1, ",
    ] {
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
    assert!(
        !shown.contains("[1, 1") && !shown.contains("pw-Xq3"),
        "{shown}"
    );
    for key in &keys {
        let left: i64 = server.ask(&format!("PTTL {key}"));
        assert!(left > 29 * 24 * 3600 * 1000, "{left}");
    }
    for mark in &marks {
        let left: i64 = server.ask(&format!("PTTL {mark}"));
        assert!((1..=80_000).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn the_index_of_a_users_sessions_forgets_those_that_have_ended() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    let session = |name: &str| ALICE.clone().with_session(name);
    let put = async |name: &str| {
        let session = session(name);
        store.put(&session, "github", &tokens(name)).await.unwrap();
    };
    put("a").await;
    let keys = server.keys();
    let index = keys.iter().find(|key| key.ends_with(":sessions")).unwrap();
    let sessions = || server.ask::<Vec<String>>(&format!("ZRANGE {index} 0 -1"));
    let ended = sessions().remove(0);
    put("b").await;
    assert_eq!(sessions().len(), 2);

    let is_long = |key: &str| server.ask::<i64>(&format!("PTTL {key}")) > 3_600_000;
    let end = |name: &str| server.ask::<i64>(&format!("ZADD {index} 1 {name}"));
    end(&ended);
    let () = server.ask(&format!("PEXPIRE {index} 60000"));
    // A refresh prolongs it.
    let stored = store.load(&session("b")).await.unwrap();
    let claim = Claim::new(stored["github"].version(), GRACE);
    let claimed = store.claim(&session("b"), "github", &claim).await.unwrap();
    let Claimed::Granted(lease) = claimed else {
        panic!("not granted: {claimed:?}");
    };
    let next = Settlement::Replace(StoredTokens::new(&session("b"), tokens("next")));
    assert!(
        store
            .settle(&session("b"), "github", &lease, &next)
            .await
            .unwrap()
    );
    assert_eq!(sessions().len(), 1, "`a` has ended");
    assert!(is_long(index));
    end(&sessions()[0]);
    let () = server.ask(&format!("PEXPIRE {index} 60000"));
    put("c").await;
    assert_eq!(sessions().len(), 1, "`b` has ended");
    assert!(is_long(index));
    end("another");
    put("b").await;
    assert_eq!(sessions().len(), 2);
    store.remove(&session("a")).await.unwrap();
    store.remove_user(&ALICE).await.unwrap();
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn the_same_tokens_are_never_sealed_to_the_same_bytes() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        put(&store, "a").await.unwrap();
        let keys = server.keys();
        let value: Vec<u8> = server.ask(&format!("HGET {} t:github", keys[0]));
        assert!(seen.insert(value[16..41].to_vec()), "a nonce came twice");
    }
}

#[tokio::test]
async fn the_newest_key_seals_and_all_open() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let old = store_at(&server.url()).build().unwrap();
    let rotating = RedisStore::builder(server.url(), key(2))
        .older_key(key(1))
        .build()
        .unwrap();
    let new = RedisStore::builder(server.url(), key(2)).build().unwrap();

    put(&old, "a").await.unwrap();
    assert!(holds(&rotating, "a").await);
    let error = only(&new).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("sealing keys"), "{error}");
    assert!(
        holds(&old, "a").await,
        "what cannot be opened is left as it is"
    );

    put(&rotating, "b").await.unwrap();
    assert!(holds(&new, "b").await);
    assert_eq!(kind(only(&old).await), AuthErrorKind::Configuration);
}

#[tokio::test]
async fn a_value_that_was_moved_or_tampered_with_is_an_error_and_no_log_in() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    let mut connection = server.connection();
    let key_of = async |user: &str| {
        let before = server.keys();
        store
            .put(&owner(user), "github", &tokens(user))
            .await
            .unwrap();
        let keys = server.keys();
        keys.into_iter().find(|key| !before.contains(key)).unwrap()
    };
    let (mine, theirs) = (key_of("mine").await, key_of("theirs").await);
    let good: Vec<u8> = server.ask(&format!("HGET {theirs} t:github"));
    let mut set = |key: &str, field: &str, value: &[u8]| {
        let _: i64 = redis::cmd("HSET")
            .arg(key)
            .arg(field)
            .arg(value)
            .query(&mut connection)
            .unwrap();
    };

    set(&mine, "t:github", &good);
    assert_eq!(
        kind(store.load(&owner("mine")).await),
        AuthErrorKind::Configuration
    );
    set(&theirs, "t:google", &good);
    assert_eq!(
        kind(store.load(&owner("theirs")).await),
        AuthErrorKind::Configuration
    );
    for at in 0..good.len() {
        let mut tampered = good.clone();
        tampered[at] ^= 1;
        set(&mine, "t:github", &tampered);
        assert_eq!(
            kind(store.load(&owner("mine")).await),
            AuthErrorKind::Configuration,
            "byte {at}"
        );
    }
    for length in 0..good.len() {
        set(&mine, "t:github", &good[..length]);
        assert_eq!(
            kind(store.load(&owner("mine")).await),
            AuthErrorKind::Configuration,
            "{length} bytes"
        );
    }
}

#[tokio::test]
async fn a_sealing_key_is_32_bytes_in_base64() {
    let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    SealingKey::from_base64(&format!(" {good}\n")).unwrap();
    for bad in ["", "password", &good[4..], &format!("{good}{good}")] {
        let error = SealingKey::from_base64(bad).unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "key");
        assert!(bad.is_empty() || !error.to_string().contains(bad));
    }
}

#[test]
fn a_store_is_built_without_a_runtime_and_checks_what_it_is_given() {
    store_at("redis://127.0.0.1/").build().unwrap();
    let error = RedisStore::builder("http://:pw-Xq3@localhost/", key(1))
        .build()
        .unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "url");
    let error = store_at("redis://127.0.0.1/")
        .prefix("a{}")
        .build()
        .unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "prefix");
    assert!(!format!("{error} {error:?}").contains("pw-Xq3"));
    let never = store_at("redis://127.0.0.1/").response_limit(Duration::ZERO);
    let error = never.build().unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "response_limit");
}

#[tokio::test]
async fn f19_a_redis_that_is_down_is_unavailable_until_it_is_back() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = impatient_store_at(&server.url());
    server.kill();
    for _ in 0..3 {
        assert_eq!(kind(only(&store).await), AuthErrorKind::Unavailable);
        assert_eq!(kind(put(&store, "a").await), AuthErrorKind::Unavailable);
    }
    server.restart();
    until(async || put(&store, "a").await.is_ok()).await;
    assert!(holds(&store, "a").await);

    server.restart();
    until(async || only(&store).await.is_ok()).await;
    assert!(holds(&store, "a").await);
}

#[tokio::test]
async fn f19_a_redis_that_stalls_is_unavailable_in_bounded_time_and_nothing_is_spent() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = impatient_store_at(&proxy.url());
    let bench = Bench::with_expired_session(&store).await;
    let replica = bench.replica("gateway", &store, |provider| provider);
    proxy.stall();
    let loading = (0..50).map(|_| tokio::spawn(replica.load(&ALICE)));
    for loaded in join_all(loading).await {
        assert_eq!(kind(loaded.unwrap()), AuthErrorKind::Unavailable);
    }
    assert_eq!(bench.issuer.refreshes(), 0);
    proxy.go_on();
    until(async || replica.load(&ALICE).await.is_ok()).await;
    bench.good(&replica.load(&ALICE).await.unwrap());
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn a_host_that_is_gone_without_a_word_is_not_waited_for_twice() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = impatient_store_at(&proxy.url());
    put(&store, "a").await.unwrap();
    proxy.lose_connections_without_a_word();
    assert_eq!(kind(only(&store).await), AuthErrorKind::Unavailable);
    until(async || only(&store).await.is_ok()).await;
    assert!(holds(&store, "a").await);
}

#[tokio::test]
async fn a_call_on_a_connection_that_was_dropped_is_made_once_more() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = store_at(&proxy.url()).build().unwrap();
    for round in 0..50 {
        let name = round.to_string();
        put(&store, &name).await.unwrap();
        proxy.drop_connections();
        assert!(holds(&store, &name).await);

        let version = only(&store).await.unwrap().unwrap().version();
        proxy.drop_connections();
        let claimed = store
            .claim(&ALICE, "github", &Claim::new(version, GRACE))
            .await;
        let Claimed::Granted(lease) = claimed.unwrap() else {
            panic!("not granted")
        };
        proxy.drop_connections();
        let next = Settlement::Replace(StoredTokens::new(&ALICE, tokens("next")));
        assert!(store.settle(&ALICE, "github", &lease, &next).await.unwrap());
        assert!(holds(&store, "next").await);
    }
}

#[tokio::test]
async fn f19_a_claim_whose_answer_was_lost_is_the_same_when_it_is_made_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = impatient_store_at(&proxy.url());
    put(&store, "a").await.unwrap();
    let version = only(&store).await.unwrap().unwrap().version();
    let claim = Claim::new(version, GRACE);
    proxy.stall();
    assert_eq!(
        kind(store.claim(&ALICE, "github", &claim).await),
        AuthErrorKind::Unavailable
    );
    proxy.lose_connections_without_a_word();

    let patient = store_at(&server.url()).build().unwrap();
    let other = Claim::new(version, GRACE);
    assert!(matches!(
        patient.claim(&ALICE, "github", &other).await.unwrap(),
        Claimed::Held(_)
    ));
    let Claimed::Granted(lease) = patient.claim(&ALICE, "github", &claim).await.unwrap() else {
        panic!("its holder does not get it");
    };
    assert!(
        patient
            .settle(&ALICE, "github", &lease, &Settlement::Release)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn f17_tokens_that_were_refreshed_while_redis_was_down_are_used_and_stored_when_it_is_back() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = impatient_store_at(&server.url());
    let bench = Bench::with_expired_session(&store).await;
    let replica = bench.replica("gateway", &store, |provider| provider);
    let (loading, gate) = bench.spends(&replica).await;
    server.kill();
    gate.add_permits(1);
    let token = bench.good(&loading.await.unwrap().unwrap());

    server.restart();
    let patient = store_at(&server.url()).build().unwrap();
    until(async || {
        let stored = only(&patient).await.unwrap().unwrap().tokens().clone();
        stored.token().access_token().expose() == token
    })
    .await;
    let other = bench.replica("other", &patient, |provider| provider);
    assert_eq!(bench.good(&other.load(&ALICE).await.unwrap()), token);
    assert_eq!(bench.issuer.refreshes(), 1);
    assert!(bench.issuer.killed().is_empty());
}

#[tokio::test]
async fn a_redis_that_lost_its_data_needs_a_log_in_and_a_refresh_does_not_bring_a_session_back() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = store_at(&server.url()).build().unwrap();
    let bench = Bench::with_expired_session(&store).await;
    let replica = bench.replica("gateway", &store, |provider| provider);
    let (loading, gate) = bench.spends(&replica).await;
    server.lose();
    server.restart();
    gate.add_permits(1);
    assert!(
        loading
            .await
            .unwrap()
            .unwrap()
            .login_required()
            .contains_key("github")
    );
    assert!(only(&store).await.unwrap().is_none());
    assert!(
        replica
            .load(&ALICE)
            .await
            .unwrap()
            .login_required()
            .contains_key("github")
    );
}

#[tokio::test]
async fn f17_a_lease_that_runs_out_leaves_doubt_until_its_holder_is_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let (cut_off, patient) = (
        impatient_store_at(&proxy.url()),
        store_at(&server.url()).build().unwrap(),
    );
    let bench = Bench::with_expired_session(&patient).await;
    let holder = bench.replica("holder", &cut_off, |provider| provider);
    let (loading, gate) = bench.spends(&holder).await;
    proxy.lead_to_nowhere();
    proxy.drop_connections();

    // It waits for the lease, which nobody renews, and then does not spend what may have been spent.
    let other = bench.replica("other", &patient, |provider| provider);
    let loaded = other.load(&ALICE).await.unwrap();
    assert_eq!(loaded.failed()["github"].kind(), AuthErrorKind::Unavailable);

    gate.add_permits(1);
    let token = bench.good(&loading.await.unwrap().unwrap());
    proxy.lead_to(&server);
    until(async || {
        let stored = only(&patient).await.unwrap().unwrap().tokens().clone();
        stored.token().access_token().expose() == token
    })
    .await;
    assert_eq!(bench.good(&other.load(&ALICE).await.unwrap()), token);
    assert_eq!(bench.issuer.refreshes(), 1);
}

#[tokio::test]
async fn f18_a_holder_whose_lease_ran_out_and_was_taken_over_reads_what_the_other_stored() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let (cut_off, patient) = (
        impatient_store_at(&proxy.url()),
        store_at(&server.url()).build().unwrap(),
    );
    let bench = Bench::with_expired_session(&patient).await;
    let holder = bench.replica("holder", &cut_off, |provider| provider.grace(GRACE));
    let (loading, gate) = bench.spends(&holder).await;
    bench.issuer.forgive("holder");
    proxy.lead_to_nowhere();
    proxy.drop_connections();

    let other = bench.replica("other", &patient, |provider| provider.grace(GRACE));
    let token = bench.good(&other.load(&ALICE).await.unwrap());
    assert_eq!(bench.issuer.presented_again(), 1);

    proxy.lead_to(&server);
    until(async || only(&cut_off).await.is_ok()).await;
    gate.add_permits(1);
    assert_eq!(bench.good(&loading.await.unwrap().unwrap()), token);
    let stored = only(&patient).await.unwrap().unwrap().tokens().clone();
    assert_eq!(stored.token().access_token().expose(), token);
}

/// A primary, and a replica that follows it.
async fn primary_and_replica() -> Option<(RedisServer, RedisServer)> {
    let primary = RedisServer::start_with(&[])?;
    let follow = format!("127.0.0.1 {}", primary.address().port());
    let options = ["--replicaof", &follow, "--repl-diskless-sync-delay", "0"];
    let replica = RedisServer::start_with(&options)?;
    until(async || {
        replica
            .ask::<String>("INFO replication")
            .contains("master_link_status:up")
    })
    .await;
    Some((primary, replica))
}

#[tokio::test]
async fn f17_a_fail_over_in_the_middle_of_a_refresh_spends_nothing_twice_and_loses_nothing() {
    let Some((mut primary, replica)) = primary_and_replica().await else {
        return;
    };
    let proxy = Proxy::to(&primary).await;
    let store = store_at(&proxy.url()).replicas(1).build().unwrap();
    until(async || put(&store, "a").await.is_ok()).await;
    let bench = Bench::with_expired_session(&store).await;
    let holder = bench.replica("holder", &store, |provider| provider);
    let (loading, gate) = bench.spends(&holder).await;

    primary.kill();
    let () = replica.ask("REPLICAOF NO ONE");
    let patient = store_at(&replica.url()).build().unwrap();
    let other = bench.replica("other", &patient, |provider| provider);
    proxy.drop_connections();
    proxy.lead_to_nowhere();
    let loaded = other.load(&ALICE).await.unwrap();
    assert_eq!(loaded.failed()["github"].kind(), AuthErrorKind::Unavailable);
    assert_eq!(bench.issuer.refreshes(), 1, "the claim was not lost");

    gate.add_permits(1);
    let token = bench.good(&loading.await.unwrap().unwrap());
    let mut second = RedisServer::start_with(&[]).unwrap();
    let () = second.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.address().port()));
    proxy.lead_to(&replica);
    until(async || {
        let stored = only(&patient).await.unwrap().unwrap().tokens().clone();
        stored.token().access_token().expose() == token
    })
    .await;
    assert_eq!(bench.good(&other.load(&ALICE).await.unwrap()), token);
    assert_eq!(bench.issuer.refreshes(), 1);
    second.kill();
}

#[tokio::test]
async fn a_write_that_too_few_replicas_confirm_does_not_count_and_nothing_is_spent() {
    let Some((primary, mut replica)) = primary_and_replica().await else {
        return;
    };
    let store = RedisStore::builder(primary.url(), key(1))
        .replicas(1)
        .response_limit(Duration::from_secs(4))
        .build()
        .unwrap();
    until(async || put(&store, "a").await.is_ok()).await;
    let bench = Bench::with_expired_session(&store).await;
    let holder = bench.replica("holder", &store, |provider| provider);
    replica.kill();
    let loaded = holder.load(&ALICE).await.unwrap();
    assert_eq!(loaded.failed()["github"].kind(), AuthErrorKind::Unavailable);
    assert_eq!(bench.issuer.refreshes(), 0);
    let error = put(&store, "b").await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    // Redis says so before it is given up.
    assert!(error.to_string().contains("too few replicas"), "{error}");
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_left() {
    let Some((primary, replica)) = primary_and_replica().await else {
        return;
    };
    let proxy = Proxy::to(&primary).await;
    let store = store_at(&proxy.url()).build().unwrap();
    put(&store, "a").await.unwrap();
    proxy.lead_to(&replica);
    let () = replica.ask("REPLICAOF NO ONE");
    let () = primary.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.address().port()));
    put(&store, "b").await.unwrap();
    assert!(holds(&store, "b").await);
}

const REPLICAS: usize = 8;
const SESSIONS: usize = 200;
const RUN_FOR: Duration = Duration::from_secs(20);
const REPLICA: &str = "TOWER_IDENTITY_TEST_REPLICA";

/// One of the processes of the test below: loads sessions, and sends what they hold where it belongs, until it is killed.
#[test]
fn replica_process() {
    let Ok(configuration) = env::var(REPLICA) else {
        return;
    };
    let [id, redis_url, token_url, resource_url, trouble_url] =
        configuration.split(' ').collect::<Vec<_>>()[..]
    else {
        panic!("a replica needs five words");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = store_at(redis_url).build().unwrap();
        let provider = rotating_issuer::provider("github", token_url, id)
            .grace(GRACE)
            .build()
            .unwrap();
        let upstream = UpstreamTokens::new(store, [provider]).lease_time(Duration::from_secs(3));
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
        let request_after_request = (0..5).map(async |_| {
            loop {
                sleep(Duration::from_millis(fastrand::u64(50..150))).await;
                let user = format!("user-{}", fastrand::usize(..SESSIONS));
                let loaded = upstream.load(&owner(&user)).await;
                let token = loaded
                    .as_ref()
                    .ok()
                    .and_then(|loaded| loaded.tokens().get("github"));
                let request = match token {
                    Some(token) => http::Request::get(format!("{resource_url}?{user}"))
                        .header("authorization", token.access_token().authorization())
                        .body(Full::default()),
                    None => http::Request::post(trouble_url)
                        .body(Full::from(format!("{user}: {loaded:?}"))),
                };
                client.request(request.unwrap()).await.unwrap();
            }
        });
        let _: Vec<()> = join_all(request_after_request).await;
    });
}

struct Replica {
    id: String,
    process: Child,
}

impl Replica {
    fn start(number: usize, redis: &RedisServer, issuer: &RotatingIssuer) -> Self {
        let id = format!("replica-{number}");
        let urls = [
            redis.url(),
            issuer.url(),
            issuer.resource_url(),
            issuer.trouble_url(),
        ];
        let process = Command::new(env::current_exe().unwrap())
            .args(["replica_process", "--exact", "--nocapture"])
            .env(REPLICA, format!("{id} {}", urls.join(" ")))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { id, process }
    }

    fn kill(&mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.id);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_replicas_that_are_killed_at_random_never_cost_a_user_the_log_in() {
    let Some(redis) = RedisServer::start_with(&[]) else {
        return;
    };
    let issuer = RotatingIssuer::start(Arc::new(SystemClock), Duration::from_secs(1)).await;
    issuer.answer_after(Duration::from_millis(20));
    let store = store_at(&redis.url()).build().unwrap();
    for user in 0..SESSIONS {
        let user = format!("user-{user}");
        store
            .put(&owner(&user), "github", &issuer.log_in(&user))
            .await
            .unwrap();
    }

    let mut replicas: Vec<_> = (0..REPLICAS)
        .map(|number| Replica::start(number, &redis, &issuer))
        .collect();
    let mut started = REPLICAS;
    let end = SystemTime::now() + RUN_FOR;
    while SystemTime::now() < end {
        sleep(Duration::from_millis(fastrand::u64(200..800))).await;
        let replica = &mut replicas[fastrand::usize(..REPLICAS)];
        replica.kill();
        // Only now may what it spent come again.
        issuer.forgive(&replica.id);
        *replica = Replica::start(started, &redis, &issuer);
        started += 1;
    }
    for replica in &mut replicas {
        replica.kill();
    }

    println!(
        "{} replicas killed, {} requests, {} refreshes, {} of them again after a crash",
        started - REPLICAS,
        issuer.served(),
        issuer.refreshes(),
        issuer.presented_again(),
    );
    assert!(issuer.killed().is_empty(), "{:?}", issuer.killed());
    assert!(issuer.troubles().is_empty(), "{:?}", issuer.troubles());
    assert!(issuer.served() > 10 * SESSIONS && issuer.refreshes() > 5 * SESSIONS);
}
