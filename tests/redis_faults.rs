//! What `RedisStore` makes of the errors of Redis 6.2 and 7, of answers that are none, and of TLS.

mod support;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{
    authority::{Authority, tls_refusal},
    owner, peers,
    redis::{Proxy, RedisServer},
    redis_answers::AnyAnswer,
    redis_fleet::Cluster,
    rotating_issuer::RotatingIssuer,
    store_contract::{self, tokens},
};
use tokio::time::{sleep, timeout};
use tower_identity::{
    AuthError, AuthErrorKind, BuildError, RedisStore, Secret, SystemClock, UpstreamTokenStore,
    UpstreamTokens,
    upstream::{
        Claim, Claimed, Lease, RedisStoreBuilder, SealingKey, Settlement, StoredTokens, TokenOwner,
    },
};

const MOMENT: Duration = Duration::from_millis(10);
const VERSIONS: [&str; 2] = [peers::REDIS, peers::REDIS_6_2];

fn alice() -> TokenOwner {
    owner("session-7Fjfp0ZBr1KtDRbnfVdmIw")
}

fn key() -> SealingKey {
    SealingKey::new([1; 32])
}

fn store_at(url: impl Into<String>) -> RedisStoreBuilder {
    // What a busy machine takes its time for is no fault of Redis.
    RedisStore::builder(url, key()).response_limit(Duration::from_secs(20))
}

async fn put(store: &RedisStore, name: &str) -> Result<(), AuthError> {
    store.put(&alice(), "github", &tokens(name)).await
}

async fn holds(store: &RedisStore, name: &str) -> bool {
    let stored = store.load(&alice()).await.unwrap().remove("github");
    stored.is_some_and(|stored| {
        stored.tokens().token().access_token().expose() == format!("access-{name}")
    })
}

async fn until(happened: impl AsyncFn() -> bool) {
    let happens = async {
        while !happened().await {
            sleep(MOMENT).await;
        }
    };
    let in_time = timeout(Duration::from_secs(60), happens).await;
    in_time.expect("it did not happen");
}

/// All that an error shows, to the last of its causes.
fn shown(error: &AuthError) -> String {
    let mut shown = format!("{error:?}");
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        shown += &format!("\n{error}");
        cause = error.source();
    }
    shown
}

/// Sets a server up with commands, one in a line.
fn set_up(server: &RedisServer, commands: &str) {
    for command in commands.lines() {
        server.ask::<redis::Value>(command.trim());
    }
}

#[tokio::test]
async fn f64_a_node_that_takes_no_writes_is_left_at_once_whatever_its_answer_looks_like() {
    const STATES: [&str; 4] = [
        "REPLICAOF 127.0.0.1 1",
        "REPLICAOF 127.0.0.1 1\nCONFIG SET replica-serve-stale-data no",
        "CONFIG SET min-replicas-to-write 1",
        "CONFIG SET maxmemory 1",
    ];
    for version in VERSIONS {
        for state in STATES {
            let start = || RedisServer::start_peer(version, &[]);
            let (Some(old), Some(new)) = (start(), start()) else {
                continue;
            };
            let proxy = Proxy::to(&old).await;
            let store = store_at(proxy.url()).build().unwrap();
            put(&store, "a").await.unwrap();
            set_up(&old, state);
            let error = put(&store, "b").await.unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{state}: {error}");

            put(&store_at(new.url()).build().unwrap(), "new")
                .await
                .unwrap();
            proxy.lead_to(&new);
            assert!(holds(&store, "new").await, "{version}: {state}");
            put(&store, "b").await.unwrap();

            // The call that finds out is itself made once more.
            proxy.lead_to(&old);
            proxy.drop_connections();
            let _ = store.load(&alice()).await;
            proxy.lead_to(&new);
            put(&store, "c").await.unwrap();
            assert!(holds(&store, "c").await, "{version}: {state}");
        }
    }
}

#[tokio::test]
async fn f64_any_answer_about_the_state_of_a_node_drops_the_connection() {
    let script = "ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -";
    for answer in [
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "REDIRECT 10.0.0.2:6379",
        "UNBLOCKED force unblock from blocking operation",
        "NEWSTATE that nobody has heard of yet",
        "ERR max number of clients reached",
        "ERR WAIT cannot be used with replica instances.",
        &format!("{script}READONLY You can't write against a read only replica."),
        &format!("{script}OOM command not allowed when used memory > 'maxmemory'."),
        &format!("{script}MISCONF Redis can't run this command"),
    ] {
        let node = AnyAnswer::start(format!("-{answer}\r\n")).await;
        let store = store_at(node.url()).build().unwrap();
        for attempt in 1..=2 {
            let error = store.load(&alice()).await.unwrap_err();
            assert_eq!(
                error.kind(),
                AuthErrorKind::Unavailable,
                "{answer}: {error}"
            );
            assert_eq!(node.connections(), 2 * attempt, "{answer}");
        }
        node.answer_with("*0\r\n");
        assert!(store.load(&alice()).await.unwrap().is_empty(), "{answer}");
        assert!(store.load(&alice()).await.unwrap().is_empty(), "{answer}");
        assert_eq!(node.connections(), 5, "a good connection is kept");
    }
}

#[tokio::test]
async fn f64_a_primary_without_its_replicas_is_left() {
    let Some(alone) = RedisServer::start_with(&[]) else {
        return;
    };
    let Some(primary) = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]) else {
        return;
    };
    let follow = format!("127.0.0.1 {}", primary.address().port());
    let _replica = RedisServer::start_with(&["--replicaof", &follow]).unwrap();
    until(async || {
        let replication: String = primary.ask("INFO replication");
        replication.contains("state=online")
    })
    .await;

    let proxy = Proxy::to(&alone).await;
    let limit = Duration::from_secs(4);
    let store = store_at(proxy.url()).replicas(1).response_limit(limit);
    let store = store.build().unwrap();
    let error = put(&store, "a").await.unwrap_err();
    assert!(error.to_string().contains("too few replicas"), "{error}");
    proxy.lead_to(&primary);
    until(async || put(&store, "b").await.is_ok()).await;
    assert!(holds(&store_at(primary.url()).build().unwrap(), "b").await);
}

/// Calls everything that a store can be asked, and gives the first error.
async fn use_all(store: &RedisStore) -> Result<(), AuthError> {
    put(store, "a").await?;
    let stored = store.load(&alice()).await?.remove("github").unwrap();
    let claim = Claim::new(stored.version(), Duration::from_secs(10));
    let Claimed::Granted(lease) = store.claim(&alice(), "github", &claim).await? else {
        panic!("not granted");
    };
    store.renew(&alice(), "github", &lease, MOMENT).await?;
    let next = Settlement::Replace(StoredTokens::new(&alice(), tokens("b")));
    store.settle(&alice(), "github", &lease, &next).await?;
    store.remove(&alice()).await
}

#[tokio::test]
async fn f78_what_no_other_attempt_mends_is_a_configuration_error_that_says_what_to_do() {
    const USERS: &str = "\
        ACL SETUSER no-commands on >pw-Xq3 ~tower-identity:* +eval +hgetall\n\
        ACL SETUSER no-keys on >pw-Xq3 ~other:* +@all\n\
        ACL SETUSER no-scripts on >pw-Xq3 ~* +@all -@scripting\n\
        ACL SETUSER off off >pw-Xq3 ~* +@all";
    for version in VERSIONS {
        let Some(server) = RedisServer::start_peer(version, &[]) else {
            continue;
        };
        let address = server.address();
        let expect = async |url: &str, advice: &str| {
            let store = store_at(url).build().unwrap();
            let error = use_all(&store).await.unwrap_err();
            let shown = shown(&error);
            assert_eq!(error.kind(), AuthErrorKind::Configuration, "{url}: {shown}");
            assert!(error.to_string().contains(advice), "{url}: {shown}");
            assert!(!shown.contains("Xq3"), "{shown}");
        };
        let at = |user: &str| format!("redis://{user}@{address}/");
        let (password, rights) = ("password", "rights that the documentation");
        expect(&at(":pw-Xq3"), password).await;
        expect(&at("nobody:pw-Xq3"), password).await;
        set_up(&server, USERS);
        expect(&at("no-commands:wrong-Xq3"), password).await;
        expect(&at("off:pw-Xq3"), password).await;
        expect(&at("no-commands:pw-Xq3"), rights).await;
        expect(&at("no-keys:pw-Xq3"), rights).await;
        expect(&at("no-scripts:pw-Xq3"), rights).await;
        expect(&format!("redis://{address}/99"), "number at the end").await;

        // It waits for more of what it takes for a command.
        let store = RedisStore::builder(format!("rediss://{address}/"), key());
        let error = put(&store.build().unwrap(), "a").await.unwrap_err();
        assert!(error.to_string().contains("takes TLS"), "{error}");

        let store = store_at(server.url()).build().unwrap();
        put(&store, "a").await.unwrap();
        let keys = server.keys();
        set_up(&server, &format!("SET {} 1", keys[0]));
        expect(&server.url(), "key prefix").await;
        assert_eq!(
            store.load(&alice()).await.unwrap_err().kind(),
            AuthErrorKind::Configuration
        );

        let without_scripts = ["--rename-command", "EVAL", ""];
        let without_scripts = RedisServer::start_peer(version, &without_scripts).unwrap();
        expect(&without_scripts.url(), "allow `EVAL`").await;
        let without_reads = ["--rename-command", "HGETALL", "hidden"];
        let without_reads = RedisServer::start_peer(version, &without_reads).unwrap();
        expect(&without_reads.url(), "does not know a command").await;

        server.ask::<()>("CONFIG SET requirepass pw-Xq3");
        expect(&server.url(), password).await;
    }
}

#[tokio::test]
async fn f78_a_node_of_a_cluster_that_is_used_as_a_server_is_a_configuration_error() {
    let Some(cluster) = Cluster::start(&[]) else {
        return;
    };
    let mut moved = 0;
    for url in cluster.urls() {
        let store = store_at(&url).build().unwrap();
        if let Err(error) = put(&store, "a").await {
            assert_eq!(error.kind(), AuthErrorKind::Configuration, "{error}");
            assert!(error.to_string().contains("RedisStore::cluster"), "{error}");
            moved += 1;
        }
    }
    assert_eq!(moved, 2, "two of three do not have the key");
}

#[tokio::test]
async fn f78_the_rights_in_the_documentation_are_enough() {
    for version in VERSIONS {
        let Some(server) = RedisServer::start_peer(version, &[]) else {
            continue;
        };
        set_up(
            &server,
            "ACL SETUSER gateway on >pw ~tower-identity:* +eval +hgetall +hget +hset +hdel \
             +hkeys +hincrby +zadd +zrem +zrange +zremrangebyscore +pexpire +time +del +wait +select",
        );
        let url = format!("redis://{}/1", server.address());
        let credentials = Secret::new("pw").unwrap();
        let store = store_at(url).credentials("gateway", credentials);
        let store = store.build().unwrap();
        let pass = |time| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(sleep(time + MOMENT))
        };
        store_contract::check(&store, Box::new(pass)).await;
    }
}

#[tokio::test]
async fn f81_a_put_whose_answer_was_lost_does_not_undo_what_came_after_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let slow = store_at(proxy.url()).build().unwrap();
    let direct = store_at(server.url()).build().unwrap();
    put(&slow, "before").await.unwrap();

    proxy.stall();
    let putting = tokio::spawn({
        let slow = slow.clone();
        async move { put(&slow, "a").await }
    });
    until(async || holds(&direct, "a").await).await;
    let stored = direct
        .load(&alice())
        .await
        .unwrap()
        .remove("github")
        .unwrap();
    let claim = Claim::new(stored.version(), Duration::from_secs(10));
    let Claimed::Granted(lease) = direct.claim(&alice(), "github", &claim).await.unwrap() else {
        panic!("not granted");
    };
    let refreshed = Settlement::Replace(StoredTokens::new(&alice(), tokens("refreshed")));
    assert!(
        direct
            .settle(&alice(), "github", &lease, &refreshed)
            .await
            .unwrap()
    );

    proxy.drop_connections();
    proxy.go_on();
    putting.await.unwrap().unwrap();
    assert!(
        holds(&direct, "refreshed").await,
        "a spent refresh token is back"
    );

    put(&slow, "b").await.unwrap();
    assert!(holds(&direct, "b").await, "another put counts");
}

/// Makes a call whose answer is lost, and `between` before it is made again.
async fn made_twice<R: Future<Output = Result<(), AuthError>> + Send + 'static>(
    server: &RedisServer,
    call: impl FnOnce(RedisStore) -> R,
    was_made: impl AsyncFn() -> bool,
    between: impl AsyncFnOnce(),
) {
    let proxy = Proxy::to(server).await;
    let store = store_at(proxy.url()).build().unwrap();
    store.load(&owner("first")).await.unwrap();
    proxy.lose_connections_without_a_word();
    let calling = tokio::spawn(call(store));
    until(was_made).await;
    between().await;
    proxy.drop_connections();
    calling.await.unwrap().unwrap();
}

#[tokio::test]
async fn f81_a_call_that_is_made_again_undoes_no_log_in_and_no_log_out_that_came_between() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let direct = store_at(server.url()).build().unwrap();
    let direct = &direct;
    let holds = async |owner: &TokenOwner| !direct.load(owner).await.unwrap().is_empty();
    let log_in = async |owner: &TokenOwner| {
        let a = tokens("a");
        direct.put(owner, "github", &a).await.unwrap();
    };
    for owner in [alice(), alice().with_session("1")] {
        let owner = &owner;
        let put = {
            let owner = owner.clone();
            async move |store: RedisStore| store.put(&owner, "github", &tokens("a")).await
        };
        let is_there = async || holds(owner).await;
        let is_gone = async || !holds(owner).await;
        let log_out = async || direct.remove(owner).await.unwrap();
        made_twice(&server, put.clone(), is_there, log_out).await;
        assert!(!holds(owner).await, "a log-out was undone");
        let log_out_everywhere = async || direct.remove_user(owner).await.unwrap();
        made_twice(&server, put, is_there, log_out_everywhere).await;
        assert!(!holds(owner).await, "a log-out everywhere was undone");

        let remove = {
            let owner = owner.clone();
            async move |store: RedisStore| store.remove(&owner).await
        };
        log_in(owner).await;
        made_twice(&server, remove, is_gone, async || log_in(owner).await).await;
        assert!(holds(owner).await, "a log-in was undone");
    }
}

/// The lease of a session, with its fence and its holder, and what it is set to.
struct StoredLease<'a> {
    server: &'a RedisServer,
    store: RedisStore,
}

impl<'a> StoredLease<'a> {
    fn at(server: &'a RedisServer) -> Self {
        let store = store_at(server.url()).build().unwrap();
        Self { server, store }
    }

    async fn claimed(&self) -> Lease {
        put(&self.store, "a").await.unwrap();
        let stored = self.store.load(&alice()).await.unwrap();
        let claim = Claim::new(stored["github"].version(), MOMENT);
        match self.store.claim(&alice(), "github", &claim).await.unwrap() {
            Claimed::Granted(lease) => lease,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn key(&self) -> String {
        self.server.keys().remove(0)
    }

    /// `holder fence since until`
    fn words(&self) -> Vec<String> {
        let lease: String = self.server.ask(&format!("HGET {} l:github", self.key()));
        lease.split(' ').map(str::to_owned).collect()
    }

    fn set(&self, words: &[String]) {
        let mut set = redis::cmd("HSET");
        let set = set.arg(self.key()).arg("l:github").arg(words.join(" "));
        set.exec(&mut self.server.connection()).unwrap();
    }

    async fn claim_again(&self, version: tower_identity::upstream::Version) -> Claimed {
        let in_doubt_for = Duration::from_secs(1);
        let claim = Claim::new(version, MOMENT).with_in_doubt_for(in_doubt_for);
        self.store.claim(&alice(), "github", &claim).await.unwrap()
    }
}

#[tokio::test]
async fn f81_a_lease_that_ends_far_in_the_future_is_not_waited_for() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let day = 24 * 3600 * 1000;
    let stored = StoredLease::at(&server);
    type Change = fn(&mut Vec<String>, u64);
    let changes: [Change; 5] = [
        // It never ends.
        |words, _| words[3] = "99999999999999".to_owned(),
        // The clock was set back by a day.
        |words, day| {
            for word in &mut words[2..] {
                *word = (word.parse::<u64>().unwrap() + day).to_string();
            }
        },
        |words, _| words[2] = "99999999999999".to_owned(),
        |words, _| *words = vec!["nonsense".to_owned()],
        |words, _| *words = vec![String::new()],
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let lease = stored.claimed().await;
        let mut words = stored.words();
        change(&mut words, day);
        stored.set(&words);
        let started = Instant::now();
        let mut saw_doubt = false;
        loop {
            match stored.claim_again(lease.version()).await {
                Claimed::InDoubt(left) => {
                    assert!(left <= Duration::from_secs(1), "{index}: {left:?}");
                    saw_doubt = true;
                }
                Claimed::Gone => break,
                Claimed::Held(left) => assert!(left <= MOMENT, "{index}: {left:?}"),
                other => panic!("{index}: {other:?}"),
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{index}");
            sleep(MOMENT).await;
        }
        assert!(saw_doubt, "{index}: its holder may come back");
    }
}

#[tokio::test]
async fn f81_the_holder_of_a_lease_that_seems_to_end_late_can_still_store_what_it_got() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let stored = StoredLease::at(&server);
    let lease = stored.claimed().await;
    let mut words = stored.words();
    words[3] = "99999999999999".to_owned();
    stored.set(&words);
    let claimed = stored.claim_again(lease.version()).await;
    assert!(matches!(claimed, Claimed::InDoubt(_)), "{claimed:?}");
    let next = Settlement::Replace(StoredTokens::new(&alice(), tokens("b")));
    let alice = alice();
    let settled = stored.store.settle(&alice, "github", &lease, &next);
    assert!(settled.await.unwrap());
    assert!(holds(&stored.store, "b").await);
}

#[tokio::test]
async fn f81_a_lease_time_of_zero_is_still_a_lease() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let stored = StoredLease::at(&server);
    let issuer = RotatingIssuer::start(Arc::new(SystemClock), Duration::ZERO).await;
    let expired = issuer.log_in("alice");
    stored
        .store
        .put(&alice(), "github", &expired)
        .await
        .unwrap();
    issuer.set_lifetime(Duration::from_secs(3600));
    let github = issuer.provider("github", "gateway").build().unwrap();
    let upstream = UpstreamTokens::new(stored.store.clone(), [github]);
    let upstream = upstream.lease_time(Duration::ZERO);
    let gate = issuer.hold_answers();
    let loading = tokio::spawn(upstream.load(&alice()));
    until(async || issuer.refreshes() == 1).await;
    let times: Vec<u64> = stored.words()[2..]
        .iter()
        .map(|time| time.parse().unwrap())
        .collect();
    assert!(times[1] >= times[0] + 100, "{times:?}");

    let () = server.ask("CONFIG RESETSTAT");
    sleep(Duration::from_millis(500)).await;
    let statistics: String = server.ask("INFO commandstats");
    let calls = statistics
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_eval:calls="))
        .and_then(|line| line.split(',').next()?.parse::<u64>().ok());
    assert!(calls.unwrap_or(0) < 100, "{statistics}");
    gate.add_permits(1);
    let loaded = loading.await.unwrap().unwrap();
    assert!(loaded.tokens().get("github").is_some(), "{loaded:?}");
}

#[tokio::test]
async fn f81_an_answer_that_is_none_is_an_error_that_shows_nothing_of_it() {
    let nested = "*1\r\n".repeat(10_000);
    let long = format!("-ERR {}\r\n", "witness ".repeat(200_000));
    let answers: [&[u8]; 19] = [
        b"HTTP/1.1 400 Bad Request\r\nwitness: 1\r\n\r\n",
        b"\x1b[31mwitness\r\n",
        b"$witness\r\n",
        b"$99999999999999999999\r\n",
        b"$9223372036854775807\r\nwitness",
        b"$-7\r\n",
        b"*2147483647\r\n$7\r\nwitness\r\n",
        b"*9223372036854775807\r\n",
        b"*-5\r\n",
        b"*1\r\n$7\r\nwitness\r\n",
        b"*2\r\n$8\r\nt:github\r\n:5\r\n",
        b"*2\r\n$8\r\nt:github\r\n$7\r\nwitness\r\n",
        b"*2\r\n*0\r\n$7\r\nwitness\r\n",
        b"$7\r\nwitness\r\n",
        b":7\r\n",
        b"%1\r\n+witness\r\n+witness\r\n",
        nested.as_bytes(),
        long.as_bytes(),
        b"-WEIRD \x1b[31mred\x07 \xff\xfe \xe2\x80\xae\r\n",
    ];
    let node = AnyAnswer::start("").await;
    for answer in answers {
        node.answer_with(answer);
        let limit = Duration::from_millis(500);
        let store = store_at(node.url()).response_limit(limit).build().unwrap();
        let stored = StoredTokens::new(&alice(), tokens("a"));
        let claim = Claim::new(stored.version(), MOMENT);
        let lease = Lease::new(stored.version(), 1);
        let replace = Settlement::Replace(stored);
        let start: String = String::from_utf8_lossy(answer).chars().take(30).collect();
        for (call, error) in [
            ("load", store.load(&alice()).await.err()),
            ("put", put(&store, "a").await.err()),
            ("claim", store.claim(&alice(), "github", &claim).await.err()),
            (
                "renew",
                store.renew(&alice(), "github", &lease, MOMENT).await.err(),
            ),
            (
                "settle",
                store
                    .settle(&alice(), "github", &lease, &replace)
                    .await
                    .err(),
            ),
            ("remove", store.remove(&alice()).await.err()),
        ] {
            let Some(error) = error else {
                // A number is an answer to these.
                assert!(call != "load" && call != "claim", "{call}: {start:?}");
                continue;
            };
            let shown = shown(&error);
            assert!(
                matches!(
                    error.kind(),
                    AuthErrorKind::Unavailable | AuthErrorKind::Configuration
                ),
                "{call}: {start:?}: {shown}"
            );
            let is_plain = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
            assert!(shown.chars().all(is_plain), "{call}: {start:?}: {shown:?}");
            assert!(shown.len() < 2_000, "{call}: {start:?}: {shown}");
            let is_an_error = answer.starts_with(b"-");
            assert!(is_an_error || !shown.contains("witness"), "{call}: {shown}");
        }
    }
    node.answer_with("*0\r\n");
    let store = store_at(node.url()).build().unwrap();
    assert!(store.load(&alice()).await.unwrap().is_empty());
}

#[tokio::test]
async fn f81_an_old_server_that_repeats_the_password_in_its_error_is_not_quoted() {
    let echo = "-ERR unknown command `AUTH`, with args beginning with: `user`, `pw-Xq3`, \r\n";
    let node = AnyAnswer::start(echo).await;
    let url = node.url().replace("redis://", "redis://user:pw-Xq3@");
    let error = put(&store_at(url).build().unwrap(), "a").await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    let shown = shown(&error);
    assert!(!shown.contains("Xq3"), "{shown}");
}

#[tokio::test]
async fn a_node_that_stays_unwell_is_not_flooded_with_connections() {
    let node = AnyAnswer::start("-LOADING Redis is loading the dataset in memory\r\n").await;
    let store = store_at(node.url()).build().unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        store.load(&alice()).await.unwrap_err();
    }
    assert!(node.connections() < 40, "{}", node.connections());
}

#[tokio::test]
async fn tls_takes_a_ca_and_a_client_certificate_of_ones_own() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, private_key) = authority.issue("127.0.0.1");
    let port = peers::free_port();
    let Some(_server) = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem", &certificate),
        "--tls-key-file",
        &file("server.key", &private_key),
        "--tls-ca-cert-file",
        &file("ca.pem", &authority.certificate),
        "--tls-auth-clients",
        "yes",
    ]) else {
        return;
    };
    let (chain, client_key) = authority.issue("gateway");
    let client_key = Secret::new(client_key).unwrap();
    let at = |host: &str| store_at(format!("rediss://{host}:{port}/"));
    let store = at("127.0.0.1")
        .ca_certificates(authority.certificate.clone())
        .client_certificate(chain.clone(), client_key.clone())
        .build()
        .unwrap();
    use_all(&store).await.unwrap();

    let (foreign_chain, foreign_key) = stranger.issue("gateway");
    let foreign_key = Secret::new(foreign_key).unwrap();
    let trusting = || at("127.0.0.1").ca_certificates(authority.certificate.clone());
    for (what, store) in [
        ("no client certificate", trusting()),
        (
            "a client certificate of another CA",
            trusting().client_certificate(foreign_chain, foreign_key),
        ),
        (
            "another CA",
            at("127.0.0.1")
                .ca_certificates(stranger.certificate.clone())
                .client_certificate(chain.clone(), client_key.clone()),
        ),
        (
            "the system's CAs",
            at("127.0.0.1").client_certificate(chain.clone(), client_key.clone()),
        ),
        (
            "another name",
            at("localhost")
                .ca_certificates(authority.certificate.clone())
                .client_certificate(chain.clone(), client_key.clone()),
        ),
    ] {
        let store = store.build().unwrap();
        let error = tls_refusal(async || put(&store, "a").await).await;
        let shown = shown(&error);
        assert!(error.to_string().contains("trusted CA"), "{what}: {shown}");
    }
}

fn wrong_settings(built: Result<RedisStore, BuildError>) -> Vec<String> {
    let error = built.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("Xq3"), "{shown}");
    let settings = error.invalid_settings().iter();
    settings
        .map(|invalid| invalid.setting().to_owned())
        .collect()
}

#[test]
fn a_builder_names_each_wrong_setting_and_shows_no_secret() {
    let authority = Authority::new();
    let secret = || Secret::new("pw-Xq3").unwrap();
    let urls = ["redis://:pw-Xq3@localhost/", "http://:pw-Xq3@localhost/"];
    let none: [&str; 0] = [];
    for (built, wrong) in [
        (
            store_at("rediss://:pw-Xq3@localhost/#insecure"),
            vec!["url"],
        ),
        (
            store_at(urls[0]).ca_certificates("Xq3"),
            vec!["ca_certificates"; 2],
        ),
        (
            store_at("rediss://localhost").client_certificate("Xq3", secret()),
            vec!["client_certificate"],
        ),
        (
            store_at(urls[1])
                .response_limit(Duration::ZERO)
                .ca_certificates(authority.certificate.clone()),
            vec!["url", "response_limit"],
        ),
        (
            RedisStore::sentinel(urls, "", key()),
            vec!["sentinels[1]", "primary"],
        ),
        (
            RedisStore::sentinel(none, "mymaster", key()),
            vec!["sentinels"],
        ),
        (RedisStore::cluster(urls, key()), vec!["nodes[1]"]),
        (RedisStore::cluster(none, key()), vec!["nodes"]),
        (
            RedisStore::cluster(["redis://:pw-Xq3@a", "redis://:other-Xq3@b"], key()),
            vec!["nodes"],
        ),
    ] {
        let debug = format!("{built:?}");
        assert!(!debug.contains("Xq3"), "{debug}");
        assert_eq!(wrong_settings(built.build()), wrong);
    }
    for good in [
        RedisStore::sentinel([urls[0]], "mymaster", key()).credentials("gateway", secret()),
        RedisStore::cluster([urls[0]], key()),
    ] {
        let debug = format!("{good:?} {:?}", good.clone().build().unwrap());
        assert!(!debug.contains("Xq3"), "{debug}");
    }
}
