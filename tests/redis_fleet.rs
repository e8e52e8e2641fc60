//! The set-ups of Redis that other tests use are what they say they are.

mod support;

use redis::ErrorKind;
use support::{
    peers,
    redis::RedisServer,
    redis_fleet::{Cluster, SERVICE, SentinelFleet},
};

/// What a client learns from a sentinel.
fn master_by(sentinel_url: &str) -> String {
    let client = redis::Client::open(sentinel_url).unwrap();
    let (host, port): (String, u16) = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(SERVICE)
        .query(&mut client.get_connection().unwrap())
        .unwrap();
    format!("redis://{host}:{port}/")
}

fn get(url: &str, key: &str) -> Option<String> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("GET").arg(key).query(&mut connection).unwrap()
}

#[test]
fn a_fail_over_and_a_crash_give_another_primary_that_each_sentinel_names_and_that_has_the_data() {
    let Some(fleet) = SentinelFleet::start(&[]) else {
        return;
    };
    let first = fleet.primary().unwrap();
    // `WAIT` waits for what its own connection wrote.
    let client = redis::Client::open(format!("redis://{first}/")).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("SET")
        .arg("kept")
        .arg(1)
        .exec(&mut connection)
        .unwrap();
    let replicas: i64 = redis::cmd("WAIT")
        .arg(2)
        .arg(5000)
        .query(&mut connection)
        .unwrap();
    assert_eq!(replicas, 2);

    let second = fleet.fail_over();
    assert_ne!(first, second);
    for sentinel in fleet.sentinel_urls() {
        let url = master_by(&sentinel);
        assert_eq!(url, format!("redis://{second}/"));
        assert_eq!(get(&url, "kept").as_deref(), Some("1"));
    }

    fleet.heal();
    let third = fleet.crash_primary();
    assert_ne!(second, third);
    for sentinel in fleet.sentinel_urls() {
        assert_eq!(get(&master_by(&sentinel), "kept").as_deref(), Some("1"));
    }

    fleet.heal();
    fleet.kill_sentinel(0);
    assert_ne!(
        third,
        fleet.crash_primary(),
        "two of three sentinels are enough"
    );
}

#[test]
fn a_primary_that_starts_again_from_its_snapshot_stays_primary_and_has_lost_what_came_since() {
    let Some(fleet) = SentinelFleet::start(&[]) else {
        return;
    };
    let primary = fleet.primary().unwrap();
    fleet.ask_primary::<()>("SET before 1");
    fleet.with_primary(|primary| primary.save_snapshot());
    fleet.ask_primary::<()>("SET since 1");

    fleet.restart_primary_from_snapshot();
    fleet.heal();
    assert_eq!(fleet.primary(), Some(primary));
    let url = format!("redis://{primary}/");
    assert_eq!(get(&url, "before").as_deref(), Some("1"));
    assert_eq!(get(&url, "since"), None);
}

#[test]
fn a_cluster_redirects_to_who_has_the_key_now_and_does_not_serve_without_one_of_its_masters() {
    let Some(cluster) = Cluster::start(&[]) else {
        return;
    };
    let set = |master, value: &str| {
        cluster.with(master, |master| {
            let mut set = redis::cmd("SET");
            let answer = set.arg("key").arg(value).query(&mut master.connection());
            answer.map_err(|error: redis::RedisError| error.code().map(str::to_owned))
        })
    };
    let moved = || Err(Some("MOVED".to_owned()));
    let first = cluster.owner("key");
    assert_eq!(set(first, "1"), Ok(()));
    assert_eq!(set((first + 1) % 3, "2"), moved());

    let second = cluster.move_away("key");
    assert_ne!(first, second);
    assert_eq!(set(first, "2"), moved());
    let kept: String = cluster.with(second, |master| master.ask("GET key"));
    assert_eq!(kept, "1");

    cluster.crash(first);
    assert_eq!(set(second, "3"), Err(Some("CLUSTERDOWN".to_owned())));
    cluster.heal();
    assert_eq!(set(second, "3"), Ok(()));
}

#[test]
fn a_server_that_was_made_read_only_refuses_writes_and_still_answers_reads() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let set = || {
        redis::cmd("SET")
            .arg("key")
            .arg(1)
            .exec(&mut server.connection())
    };
    set().unwrap();
    server.make_read_only();
    assert_eq!(
        set().unwrap_err().kind(),
        ErrorKind::Server(redis::ServerErrorKind::ReadOnly)
    );
    assert_eq!(get(&server.url(), "key").as_deref(), Some("1"));
    server.make_writable();
    set().unwrap();
}

#[test]
fn redis_6_2_is_redis_6_2() {
    let Some(server) = RedisServer::start_peer(peers::REDIS_6_2, &[]) else {
        return;
    };
    let info: String = server.ask("INFO server");
    assert!(info.contains("redis_version:6.2."), "{info}");
}
