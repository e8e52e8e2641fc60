//! `RedisStore` with Sentinel and with Redis Cluster, while servers fail over, crash, and slots move.

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use support::{
    authority::{Authority, tls_refusal},
    owner,
    redis::RedisServer,
    redis_fleet::{Cluster, SERVICE, SentinelFleet, ServerTls},
    rotating_issuer::RotatingIssuer,
    store_contract::{self, tokens},
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tower_identity::{
    AuthError, AuthErrorKind, RedisStore, Secret, SystemClock, UpstreamTokenStore, UpstreamTokens,
    upstream::{Claim, Claimed, LoadedTokens, RedisStoreBuilder, SealingKey, TokenOwner},
};

const MOMENT: Duration = Duration::from_millis(10);
const USERS: usize = 20;

fn key() -> SealingKey {
    SealingKey::new([1; 32])
}

/// What a busy machine takes its time for is no fault of Redis.
fn patient(store: RedisStoreBuilder) -> RedisStoreBuilder {
    store.response_limit(Duration::from_secs(10))
}

fn store_of(fleet: &SentinelFleet) -> RedisStoreBuilder {
    RedisStore::sentinel(fleet.sentinel_urls(), SERVICE, key())
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap()
}

async fn sentinel_fleet() -> Option<Arc<SentinelFleet>> {
    in_background(|| SentinelFleet::start(&[]))
        .await
        .map(Arc::new)
}

async fn cluster() -> Option<Arc<Cluster>> {
    // A master that was ended has its data again.
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    in_background(move || Cluster::start(&options))
        .await
        .map(Arc::new)
}

async fn until<R: Future<Output = bool>>(happened: impl Fn() -> R) {
    let happens = async {
        while !happened().await {
            sleep(MOMENT).await;
        }
    };
    let in_time = timeout(Duration::from_secs(60), happens).await;
    in_time.expect("it did not happen");
}

async fn check_contract(store: &RedisStore) {
    let pass = |time| sleep(time + MOMENT).boxed_local();
    store_contract::check(store, Box::new(pass)).await;
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn alice() -> TokenOwner {
    owner("alice")
}

/// An issuer whose users have expired tokens in a store.
async fn issuer_with_expired_users(store: &RedisStore) -> RotatingIssuer {
    let issuer = RotatingIssuer::start(Arc::new(SystemClock), Duration::ZERO).await;
    for number in 0..USERS {
        let user = user(number);
        let expired = issuer.log_in(&user);
        store.put(&owner(&user), "github", &expired).await.unwrap();
    }
    issuer.set_lifetime(Duration::from_secs(3600));
    issuer
}

/// Loads the users' tokens again and again until all have good ones, and nobody may be sent to log in.
async fn all_get_tokens(issuer: &RotatingIssuer, upstream: &UpstreamTokens) {
    let started = Instant::now();
    let loading = (0..USERS).map(async |number| {
        let user = user(number);
        loop {
            let loaded = upstream.load(&owner(&user)).await;
            if let Ok(loaded) = &loaded {
                assert!(loaded.login_required().is_empty(), "{user}: {loaded:?}");
                if let Some(token) = good(loaded) {
                    assert_eq!(issuer.user_of(&token).as_deref(), Some(&*user), "{token}");
                    return;
                }
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{loaded:?}");
            sleep(MOMENT).await;
        }
    });
    join_all(loading).await;
}

fn good(loaded: &LoadedTokens) -> Option<String> {
    let token = loaded.tokens().get("github")?;
    Some(token.access_token().expose().to_owned())
}

async fn all_are_stored(issuer: &RotatingIssuer, store: &RedisStore) {
    for number in 0..USERS {
        let user = user(number);
        until(async || {
            let stored = store.load(&owner(&user)).await.unwrap_or_default();
            stored.get("github").is_some_and(|stored| {
                let token = stored.tokens().token().access_token().expose();
                issuer.user_of(token).as_deref() == Some(&*user)
            })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_store_keeps_the_contract_with_sentinel() {
    let Some(fleet) = sentinel_fleet().await else {
        return;
    };
    let store = patient(store_of(&fleet)).replicas(1).build().unwrap();
    check_contract(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_in_the_middle_of_refreshes_sends_nobody_to_log_in() {
    let Some(fleet) = sentinel_fleet().await else {
        return;
    };
    let store = store_of(&fleet).replicas(2).build().unwrap();
    until(async || {
        store
            .put(&owner("first"), "github", &tokens("a"))
            .await
            .is_ok()
    })
    .await;
    let patient = patient(store_of(&fleet)).replicas(2).build().unwrap();
    for is_crash in [false, true] {
        let issuer = issuer_with_expired_users(&patient).await;
        issuer.answer_after(Duration::from_millis(200));
        let provider = issuer.provider("github", "gateway").build().unwrap();
        let upstream = UpstreamTokens::new(store.clone(), [provider]);
        let failing_over = tokio::spawn({
            let fleet = fleet.clone();
            async move {
                sleep(Duration::from_millis(100)).await;
                in_background(move || {
                    if is_crash {
                        fleet.crash_primary();
                    } else {
                        fleet.fail_over();
                    }
                    fleet.heal();
                })
                .await;
            }
        });
        all_get_tokens(&issuer, &upstream).await;
        failing_over.await.unwrap();
        all_are_stored(&issuer, &patient).await;
        assert!(issuer.killed().is_empty(), "{:?}", issuer.killed());
        assert_eq!(issuer.refreshes(), USERS, "each refresh token is used once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f64_the_new_primary_is_found_although_a_sentinel_is_gone() {
    let Some(fleet) = sentinel_fleet().await else {
        return;
    };
    // Nobody answers at the first, and nothing refuses a connection.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let urls = [format!("redis://{}", silent.0)]
        .into_iter()
        .chain(fleet.sentinel_urls());
    let store = patient(RedisStore::sentinel(urls, SERVICE, key()));
    let store = store.build().unwrap();
    store.put(&alice(), "github", &tokens("a")).await.unwrap();
    let failed_over = in_background({
        let fleet = fleet.clone();
        move || {
            fleet.kill_sentinel(0);
            fleet.fail_over()
        }
    });
    failed_over.await;
    let started = Instant::now();
    store.put(&alice(), "github", &tokens("b")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(8));
    let stored = store.load(&alice()).await.unwrap();
    let token = stored["github"].tokens().token().access_token();
    assert_eq!(token.expose(), "access-b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f78_sentinel_settings_that_are_wrong_say_so() {
    let Some(fleet) = sentinel_fleet().await else {
        return;
    };
    let unknown = RedisStore::sentinel(fleet.sentinel_urls(), "other", key());
    let error = unknown.build().unwrap().load(&alice()).await.unwrap_err();
    // While a primary is down the sentinels say the same.
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(error.to_string().contains("of this name"), "{error}");

    let primary = format!("redis://{}", fleet.primary().unwrap());
    let no_sentinel = RedisStore::sentinel([primary], SERVICE, key());
    let error = patient(no_sentinel).build().unwrap();
    let error = error.load(&alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("not a sentinel"), "{error}");

    let password = Secret::new("pw-Xq3").unwrap();
    let wrong = patient(store_of(&fleet)).credentials("nobody", password);
    let error = wrong.build().unwrap().load(&alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("password"), "{error}");
    assert!(!format!("{error:?}").contains("Xq3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f78_cluster_settings_that_are_wrong_say_so() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let password = Secret::new("pw-Xq3").unwrap();
    let wrong = RedisStore::cluster(cluster.urls(), key()).credentials("nobody", password);
    let server = RedisServer::start().unwrap();
    let no_cluster = RedisStore::cluster([server.url()], key());
    for (store, advice) in [(wrong, "password"), (no_cluster, "RedisStore::builder")] {
        let error = patient(store).build().unwrap();
        let error = error.load(&alice()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        assert!(!format!("{error:?}").contains("Xq3"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_and_its_servers_take_credentials_of_their_own() {
    let Some(fleet) = sentinel_fleet().await else {
        return;
    };
    const RIGHTS: &str = "+eval +hgetall +hget +hset +hdel +hkeys +hincrby +zadd +zrem +zrange +zremrangebyscore +pexpire +time +del +wait \
                          +select +role";
    let user = format!("ACL SETUSER gateway on >pw ~tower-identity:* {RIGHTS}");
    fleet.ask_primary::<()>(&user);
    for url in fleet.sentinel_urls() {
        let user = "ACL SETUSER looker on >lo +role +sentinel|masters";
        let mut set = redis::cmd("ACL");
        for word in user.split(' ').skip(1) {
            set.arg(word);
        }
        let client = redis::Client::open(url).unwrap();
        set.exec(&mut client.get_connection().unwrap()).unwrap();
    }
    let urls = fleet.sentinel_urls().into_iter();
    let urls = urls.map(|url| url.replace("redis://", "redis://looker:lo@"));
    let store = patient(RedisStore::sentinel(urls, SERVICE, key()))
        .credentials("gateway", Secret::new("pw").unwrap());
    check_contract(&store.build().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_store_keeps_the_contract_with_cluster() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let store = patient(RedisStore::cluster(cluster.urls(), key())).prefix("other:");
    check_contract(&store.build().unwrap()).await;

    let store = patient(RedisStore::cluster(cluster.urls(), key())).replicas(1);
    let store = store
        .response_limit(Duration::from_secs(4))
        .build()
        .unwrap();
    let error = store.put(&alice(), "github", &tokens("a")).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("too few replicas"), "{error}");

    const RIGHTS: &str = "+eval +hgetall +hget +hset +hdel +hkeys +hincrby +zadd +zrem +zrange +zremrangebyscore +pexpire +time +del +wait \
                          +cluster|slots +asking";
    for master in 0..3 {
        let user = format!("ACL SETUSER gateway on >pw ~tower-identity:* {RIGHTS}");
        cluster.with(master, |master| master.ask::<()>(&user));
    }
    let store = patient(RedisStore::cluster(cluster.urls(), key()))
        .credentials("gateway", Secret::new("pw").unwrap());
    check_contract(&store.build().unwrap()).await;
}

/// The keys that are in a cluster, with a session for each.
async fn sessions_and_keys(cluster: &Cluster, store: &RedisStore) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for number in 0..12 {
        let session = user(number);
        let keys = || -> Vec<String> {
            (0..3)
                .flat_map(|master| cluster.with(master, |master| master.keys()))
                .collect()
        };
        let before = keys();
        store
            .put(&owner(&session), "github", &tokens("a"))
            .await
            .unwrap();
        let key = keys().into_iter().find(|key| !before.contains(key));
        found.push((session, key.unwrap()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f64_a_session_whose_slot_moved_is_found_at_the_next_call() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let store = patient(RedisStore::cluster(cluster.urls(), key()));
    let store = store.build().unwrap();
    let sessions = sessions_and_keys(&cluster, &store).await;
    for (session, key) in sessions {
        let version = store.load(&owner(&session)).await.unwrap()["github"].version();
        let moved = in_background({
            let cluster = cluster.clone();
            move || cluster.move_away(&key)
        });
        moved.await;
        let claim = Claim::new(version, Duration::from_secs(60));
        let claimed = store
            .claim(&owner(&session), "github", &claim)
            .await
            .unwrap();
        assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
        assert_eq!(store.load(&owner(&session)).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_node_of_a_cluster_costs_nobody_the_log_in() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let store = RedisStore::cluster(cluster.urls(), key()).build().unwrap();
    let patient = patient(RedisStore::cluster(cluster.urls(), key()));
    let patient = patient.build().unwrap();
    let issuer = issuer_with_expired_users(&patient).await;
    issuer.answer_after(Duration::from_millis(200));
    let provider = issuer.provider("github", "gateway").build().unwrap();
    let upstream = UpstreamTokens::new(store, [provider]);
    let crashing = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            sleep(Duration::from_millis(100)).await;
            in_background(move || {
                cluster.crash(1);
                cluster.heal();
            })
            .await;
        }
    });
    all_get_tokens(&issuer, &upstream).await;
    crashing.await.unwrap();
    all_are_stored(&issuer, &patient).await;
    assert!(issuer.killed().is_empty(), "{:?}", issuer.killed());
    assert_eq!(issuer.refreshes(), USERS, "each refresh token is used once");
}

async fn put(store: &RedisStore, owner: &TokenOwner, name: &str) -> Result<(), AuthError> {
    store.put(owner, "github", &tokens(name)).await
}

/// Sees that a store works over TLS, and only with a certificate of its own and the right CA.
async fn check_tls(
    store: impl Fn() -> RedisStoreBuilder,
    authority: &Authority,
    stranger: &Authority,
) -> RedisStore {
    let certified = |authority: &Authority, by: &Authority| {
        let (chain, key) = by.issue("gateway");
        patient(store())
            .ca_certificates(authority.certificate.clone())
            .client_certificate(chain, Secret::new(key).unwrap())
    };
    for (what, store) in [
        ("another CA", certified(stranger, authority)),
        ("a stranger's certificate", certified(authority, stranger)),
        (
            "no certificate",
            patient(store()).ca_certificates(authority.certificate.clone()),
        ),
    ] {
        let store = store.build().unwrap();
        let put = async || put(&store, &alice(), "a").await;
        let error = tls_refusal(put).await;
        assert!(error.to_string().contains("trusted CA"), "{what}: {error}");
    }
    let store = certified(authority, authority).build().unwrap();
    check_contract(&store).await;
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_works_over_tls_before_and_after_a_fail_over() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = ServerTls::new(&authority);
    let (fleet, _tls) = in_background(move || (SentinelFleet::start_tls(&tls), tls)).await;
    let Some(fleet) = fleet else {
        return;
    };
    let urls = fleet.sentinel_urls();
    let store = || RedisStore::sentinel(urls.clone(), SERVICE, key()).replicas(2);
    let store = check_tls(store, &authority, &stranger).await;
    put(&store, &alice(), "before").await.unwrap();
    let fleet = in_background(move || {
        fleet.fail_over();
        fleet.heal();
        fleet
    });
    let _fleet = fleet.await;
    until(async || put(&store, &owner("after"), "after").await.is_ok()).await;
    assert_eq!(store.load(&alice()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_works_over_tls_before_and_after_a_slot_moved() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = ServerTls::new(&authority);
    let (cluster, _tls) = in_background(move || (Cluster::start_tls(&tls), tls)).await;
    let Some(cluster) = cluster else {
        return;
    };
    let urls = cluster.urls();
    let store = || RedisStore::cluster(urls.clone(), key());
    let store = check_tls(store, &authority, &stranger).await;
    let keys = || (0..3).flat_map(|node| cluster.with(node, |node| node.keys()));
    let before: Vec<_> = keys().collect();
    put(&store, &alice(), "a").await.unwrap();
    let key = keys().find(|key| !before.contains(key)).unwrap();
    cluster.move_away(&key);
    assert_eq!(store.load(&alice()).await.unwrap().len(), 1);
}

/// An owner of each master's slots, with the key of the tokens.
async fn owners_by_master(cluster: &Cluster, store: &RedisStore) -> Vec<(TokenOwner, String)> {
    let mut found: Vec<Option<(TokenOwner, String)>> = vec![None; 3];
    for (user, key) in sessions_and_keys(cluster, store).await {
        let master = cluster.owner(&key);
        found[master] = Some((owner(&user), key));
    }
    let found: Option<Vec<_>> = found.into_iter().collect();
    found.expect("twelve users share one master")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f64_a_write_to_a_cluster_counts_when_the_replica_of_its_own_master_has_it() {
    let cluster = in_background(|| Cluster::start_with_replicas(&[])).await;
    let Some(cluster) = cluster else {
        return;
    };
    let store = patient(RedisStore::cluster(cluster.urls(), key())).replicas(1);
    let store = store.build().unwrap();
    check_contract(&store).await;
    let owners = owners_by_master(&cluster, &store).await;
    for stopped in 0..3 {
        // It is still connected, and confirms nothing.
        cluster.with(3 + stopped, |replica| replica.stop());
        let written = join_all(owners.iter().map(async |(owner, _)| {
            let store = patient(RedisStore::cluster(cluster.urls(), key()));
            let store = store.replicas(1).build().unwrap();
            put(&store, owner, "b").await
        }));
        let written = written.await;
        cluster.with(3 + stopped, |replica| replica.go_on());
        for (master, written) in written.into_iter().enumerate() {
            assert_eq!(written.is_ok(), master != stopped, "{master}: {written:?}");
            if let Err(error) = written {
                assert!(error.to_string().contains("too few replicas"), "{error}");
            }
        }
        until(async || put(&store, &owners[stopped].0, "c").await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_crashes_to_its_replica_costs_nobody_the_log_in() {
    let cluster = in_background(|| Cluster::start_with_replicas(&[])).await;
    let Some(cluster) = cluster.map(Arc::new) else {
        return;
    };
    let store = || RedisStore::cluster(cluster.urls(), key()).replicas(1);
    let patient = patient(store()).build().unwrap();
    let issuer = issuer_with_expired_users(&patient).await;
    issuer.answer_after(Duration::from_millis(200));
    let provider = issuer.provider("github", "gateway").build().unwrap();
    let limit = Duration::from_secs(1);
    let store = store().response_limit(limit).build().unwrap();
    let upstream = UpstreamTokens::new(store, [provider]);
    let keys = cluster.with(1, |master| master.keys());
    let crashing = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            sleep(Duration::from_millis(100)).await;
            in_background(move || {
                cluster.crash_to_replica(1, &keys[0]);
                cluster.heal();
            })
            .await;
        }
    });
    all_get_tokens(&issuer, &upstream).await;
    crashing.await.unwrap();
    all_are_stored(&issuer, &patient).await;
    assert!(issuer.killed().is_empty(), "{:?}", issuer.killed());
    assert_eq!(issuer.refreshes(), USERS, "each refresh token is used once");
}
