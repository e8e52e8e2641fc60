//! The whole way of a request for half an hour, with everything around it failing now and then.
//!
//! ```sh
//! cargo test --all-features --test soak -- --ignored --nocapture
//! ```
//!
//! `SOAK_SECONDS`, `SOAK_SEED`, `SOAK_USERS` and `SOAK_RATE` change what it does. `SOAK_REDIS=sentinel` has the gateways
//! share a primary with two replicas and three sentinels, which fails over now and then. The seed decides what is broken
//! and when, and what each user asks for. What meets what is up to the machine.

mod backends;
mod callers;
mod calls;
mod counters;
mod faults;
mod gateway;
mod issuers;
mod ledger;
mod memory;
mod mint;
mod passage;
mod realm;
mod recorder;
mod redis;
mod settings;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use settings::{AFTERMATH, ANSWER_LIMIT, Settings};
use world::World;

/// What is filled once (caches, pools, the allocator's arenas) is filled in this part of the run.
const WARM_UP: f64 = 0.4;
/// By how much the memory of the last tenth may exceed that of the tenth after the warm-up: it goes up by a step when more
/// calls than ever before wait for Redis at once, and the allocator does not give that back.
const GROWTH: f64 = 0.15;
/// In a shorter run the bounded caches are not full after the warm-up,
const FILLED_AFTER: Duration = Duration::from_secs(1800);
/// and may grow by so many KiB for each user.
const STILL_FILLING: u64 = 32;
/// After so many troubles the rest of the run tells nothing new.
const TOO_MANY: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes 30 minutes"]
async fn for_half_an_hour_of_faults_each_call_is_answered_with_the_right_users_token_or_a_reason_and_nothing_is_left()
 {
    let settings = Settings::from_environment();
    let Some(world) = World::create(settings).await else {
        return;
    };
    let ledger = Arc::clone(&world.ledger);
    let baseline = world.warm_up().await;
    println!("warmed up: {baseline} tasks");

    let users = world.populate().await;
    let began = Instant::now();
    let end = began + settings.duration;
    let weather = world.weather();
    let breaking = tokio::spawn(async move { weather.go_on_until(end).await });
    let memory = watch(&world, end).await;
    assert!(
        ledger.troubles() < TOO_MANY,
        "it is no use to go on: see above, after `!!!`"
    );
    breaking.await.unwrap();

    println!("the faults have ended");
    sleep(AFTERMATH).await;
    world.end();
    let mut staying = Vec::new();
    for user in users {
        match timeout(ANSWER_LIMIT * 2, user).await {
            Ok(user) => staying.push(user.unwrap()),
            Err(_) => ledger.trouble("a user waits for ever"),
        }
    }
    world.prove_access(staying).await;

    let left = drained(baseline).await;
    ledger.check_at_most(
        "tasks after all is done, and before",
        left as u64,
        baseline as u64,
    );
    world.check_counters();
    world.report(began.elapsed());
    check_memory(&world, &memory);
    world.destroy().await;
    let left = drained(0).await;
    ledger.check("tasks after the world has ended", left as u64, 0);

    let troubles = ledger.troubles();
    assert_eq!(troubles, 0, "see above, after `!!!`");
}

/// Looks at the memory each second, and tells each minute what happened.
async fn watch(world: &World, end: Instant) -> Vec<u64> {
    let began = Instant::now();
    let duration = end.duration_since(began);
    let mut samples = Vec::with_capacity(duration.as_secs() as usize + 60);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let between_reports = Duration::from_secs(60).min(duration / 3);
    let mut report_at = between_reports;
    while Instant::now() < end && world.ledger.troubles() < TOO_MANY {
        second.tick().await;
        samples.extend(memory::resident());
        if began.elapsed() >= report_at {
            world.report(began.elapsed());
            report_at += between_reports;
        }
    }
    samples
}

/// Waits until as few tasks are left, and not for ever. Returns how many there are.
async fn drained(expected: usize) -> usize {
    let metrics = Handle::current().metrics();
    for _ in 0..600 {
        if metrics.num_alive_tasks() <= expected {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    metrics.num_alive_tasks()
}

fn check_memory(world: &World, samples: &[u64]) {
    if samples.len() < 10 {
        println!("!!! there is no VmRSS here, so that memory is flat WAS NOT CHECKED");
        return;
    }
    let before = memory::median(samples, WARM_UP, WARM_UP + 0.1);
    let after = memory::median(samples, 0.9, 1.0);
    let filling = match world.settings.duration {
        duration if duration < FILLED_AFTER => STILL_FILLING * world.settings.users as u64,
        _ => 0,
    };
    let allowed = (before as f64 * (1.0 + GROWTH)) as u64 + filling;
    println!("  memory by tenths of the run, in KiB:");
    for tenth in 0..10 {
        let from = f64::from(tenth) / 10.0;
        println!("    {:>9}", memory::median(samples, from, from + 0.1));
    }
    let what = "KiB in the last tenth, and allowed by the tenth after the warm-up";
    world.ledger.check_at_most(what, after, allowed);
}
