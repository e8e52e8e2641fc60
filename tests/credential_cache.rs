//! What `CredentialCache` promises, through its public API.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Semaphore, oneshot},
};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, Clock, CredentialCache, ManualClock, Secret,
    credential::{CacheKey, CacheScope, Obtained, Obtaining},
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_nanos(1);

/// The longest pause after one failure. The shortest is half of it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The bounds of the advisory window of a credential of an hour. Jitter makes it up to a fifth shorter.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);
const SHORTEST_WINDOW: Duration = Duration::from_secs(240);

/// A cache of numbers: each fetch obtains the next one.
struct Bench {
    cache: CredentialCache<u64>,
    clock: Arc<ManualClock>,
    fetches: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + 500_000 * HOUR));
        Self {
            cache: CredentialCache::builder()
                .clock(clock.clone())
                .build()
                .unwrap(),
            clock,
            fetches: Arc::default(),
        }
    }

    fn fetches(&self) -> u64 {
        self.fetches.load(SeqCst)
    }

    /// Obtains with a fetch that answers what `answer` makes of its number.
    fn obtain(
        &self,
        answer: impl FnOnce(u64) -> Result<Obtained<u64>, AuthError> + Send + 'static,
    ) -> Obtaining<u64> {
        self.obtain_for(None, answer)
    }

    fn obtain_for(
        &self,
        subject_expires_at: Option<SystemTime>,
        answer: impl FnOnce(u64) -> Result<Obtained<u64>, AuthError> + Send + 'static,
    ) -> Obtaining<u64> {
        let fetches = self.fetches.clone();
        self.cache
            .obtain(key("user"), subject_expires_at, move || async move {
                answer(fetches.fetch_add(1, SeqCst) + 1)
            })
    }

    fn obtain_for_an_hour(&self) -> Obtaining<u64> {
        self.obtain(|number| Ok(Obtained::new(number).expires_in(HOUR)))
    }

    fn obtain_failing(&self, error: AuthError) -> Obtaining<u64> {
        self.obtain(|_| Err(error))
    }

    /// Obtains with a fetch that answers when `gate` lets it.
    fn obtain_through(&self, gate: &Arc<Semaphore>) -> Obtaining<u64> {
        let (fetches, gate) = (self.fetches.clone(), gate.clone());
        self.cache.obtain(key("user"), None, move || async move {
            let number = fetches.fetch_add(1, SeqCst) + 1;
            gate.acquire().await.unwrap().forget();
            Ok(Obtained::new(number).expires_in(HOUR))
        })
    }

    fn reject(&self, number: u64) -> bool {
        self.cache.reject(&key("user"), |&kept| kept == number)
    }

    /// Obtains another credential than the rejected one.
    fn replace(
        &self,
        rejected: u64,
        answer: impl FnOnce(u64) -> Result<Obtained<u64>, AuthError> + Send + 'static,
    ) -> Obtaining<u64> {
        let fetches = self.fetches.clone();
        let is_rejected = |&kept: &u64| kept == rejected;
        let fetch = move || async move { answer(fetches.fetch_add(1, SeqCst) + 1) };
        self.cache.replace(key("user"), None, is_rejected, fetch)
    }

    fn replace_for_an_hour(&self, rejected: u64) -> Obtaining<u64> {
        self.replace(
            rejected,
            |number| Ok(Obtained::new(number).expires_in(HOUR)),
        )
    }

    fn replace_through(&self, rejected: u64, gate: &Arc<Semaphore>) -> Obtaining<u64> {
        let (fetches, gate) = (self.fetches.clone(), gate.clone());
        let is_rejected = |&kept: &u64| kept == rejected;
        self.cache
            .replace(key("user"), None, is_rejected, move || async move {
                let number = fetches.fetch_add(1, SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                Ok(Obtained::new(number).expires_in(HOUR))
            })
    }

    fn lookup(&self) -> Option<u64> {
        self.cache.lookup(&key("user"), None).unwrap()
    }
}

fn token(user: &str) -> AccessToken {
    AccessToken::new(user).unwrap()
}

fn key(user: &str) -> CacheKey {
    CacheScope::new("test").key(token(user).fingerprint())
}

fn unavailable() -> AuthError {
    AuthError::new(AuthErrorKind::Unavailable, "the issuer is down")
}

fn rejected() -> AuthError {
    AuthError::new(AuthErrorKind::Rejected, "invalid_grant")
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn f06_users_who_differ_only_in_their_token_share_nothing() {
    let cache = CredentialCache::builder().build().unwrap();
    for user in ["alice", "bob"] {
        let obtained = cache.obtain(key(user), None, || async move {
            Ok(Obtained::new(user).expires_in(HOUR))
        });
        assert_eq!(obtained.await.unwrap(), user);
    }
    assert_eq!(cache.lookup(&key("alice"), None).unwrap(), Some("alice"));
    assert_eq!(cache.lookup(&key("bob"), None).unwrap(), Some("bob"));
    assert_eq!(cache.lookup(&key("carol"), None).unwrap(), None);
}

#[test]
fn f07_any_one_difference_in_the_configuration_changes_the_key() {
    let scopes = [
        CacheScope::new("exchange"),
        CacheScope::new("on-behalf-of"),
        CacheScope::new("exchange").field("audience", "ab"),
        CacheScope::new("exchange")
            .field("audience", "a")
            .field("audience", "b"),
        CacheScope::new("exchange")
            .field("audience", "b")
            .field("audience", "a"),
        CacheScope::new("exchange").field("audience", ""),
        CacheScope::new("exchange").field("audienc", "eab"),
        CacheScope::new("exchange").field("resource", "ab"),
        CacheScope::new("exchange").field("", "audienceab"),
    ];
    for (i, one) in scopes.iter().enumerate() {
        for (j, other) in scopes.iter().enumerate() {
            assert_eq!(one == other, i == j, "{i} and {j}");
        }
    }
}

#[test]
fn a_key_tells_subject_actor_client_and_kinds_of_token_apart() {
    let scope = CacheScope::new("exchange");
    let (alice, bob) = (token("alice").fingerprint(), token("bob").fingerprint());
    let keys = [
        scope.key(alice),
        scope.key(bob),
        scope.key(Secret::new("alice").unwrap().fingerprint()),
        scope.key_with_actor(alice, bob),
        scope.key_with_actor(bob, alice),
        scope.key_with_actor(alice, alice),
        scope.key_for_client(),
    ];
    for (i, one) in keys.iter().enumerate() {
        for (j, other) in keys.iter().enumerate() {
            assert_eq!(one == other, i == j, "{i} and {j}");
        }
    }
    assert_eq!(scope.key(alice), scope.key(token("alice").fingerprint()));
}

#[test]
fn neither_scopes_nor_keys_nor_fingerprints_show_what_they_hash() {
    let scope = CacheScope::new("exchange").field("secret", "hunter2");
    let shown = format!("{:?}", scope.key(token("alice").fingerprint()));
    assert_eq!(shown, "CacheKey(Fingerprint([redacted]))");
    assert_eq!(format!("{scope:?}"), "CacheScope(Fingerprint([redacted]))");
}

#[tokio::test]
async fn f09_an_expired_subject_gets_no_hit_and_no_fetch() {
    let bench = Bench::new();
    let end = bench.clock.now() + MINUTE;
    bench
        .obtain_for(Some(end), |number| {
            Ok(Obtained::new(number).expires_in(HOUR))
        })
        .await
        .unwrap();
    bench.clock.advance(MINUTE - MOMENT);
    assert_eq!(
        bench.cache.lookup(&key("user"), Some(end)).unwrap(),
        Some(1)
    );

    bench.clock.advance(MOMENT);
    let error = bench.cache.lookup(&key("user"), Some(end)).unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
    let error = bench
        .obtain_for(Some(end), |number| Ok(Obtained::new(number)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn f09_an_end_that_becomes_known_later_is_checked_too() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    let past = bench.clock.now();
    let error = bench.cache.lookup(&key("user"), Some(past)).unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
}

#[tokio::test]
async fn f09_a_credential_ends_with_the_subjects_token_even_if_the_end_is_forgotten() {
    let bench = Bench::new();
    let end = bench.clock.now() + MINUTE;
    bench
        .obtain_for(Some(end), |number| {
            Ok(Obtained::new(number).expires_in(HOUR))
        })
        .await
        .unwrap();
    bench.clock.advance(MINUTE);
    assert_eq!(bench.lookup(), None);
}

#[tokio::test]
async fn no_refresh_is_tried_because_the_subject_is_about_to_expire() {
    let bench = Bench::new();
    let end = bench.clock.now() + 10 * MINUTE;
    for _ in 0..10 {
        bench
            .obtain_for(Some(end), |number| {
                Ok(Obtained::new(number).expires_in(HOUR))
            })
            .await
            .unwrap();
        bench.clock.advance(MINUTE - MOMENT);
        settle().await;
    }
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn a_credential_that_is_at_hand_is_not_waited_for() {
    let bench = Bench::new();
    let obtaining = bench.obtain_for_an_hour();
    assert_eq!(format!("{obtaining:?}"), "Obtaining(pending)");
    obtaining.await.unwrap();
    let obtaining = bench.obtain_for_an_hour();
    assert_eq!(format!("{obtaining:?}"), "Obtaining(ready)");
}

#[tokio::test]
async fn f10_a_kept_credential_is_used_for_its_lifetime() {
    let bench = Bench::new();
    for _ in 0..10 {
        assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 1);
        assert_eq!(bench.lookup(), Some(1));
        bench.clock.advance(5 * MINUTE);
    }
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f11_ten_thousand_callers_on_a_cold_key_cause_one_fetch() {
    let bench = Arc::new(Bench::new());
    let gate = Arc::new(Semaphore::new(0));
    let started = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let (bench, gate, started) = (bench.clone(), gate.clone(), started.clone());
            tokio::spawn(async move {
                let obtaining = bench.obtain_through(&gate);
                started.fetch_add(1, SeqCst);
                obtaining.await
            })
        })
        .collect();
    while started.load(SeqCst) < 10_000 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(10_000);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 1);
    }
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn f12_the_first_callers_cancellation_harms_nobody() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    let first = bench.obtain_through(&gate);
    let second = bench.obtain_through(&gate);
    let first = tokio::spawn(first);
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    gate.add_permits(1);
    assert_eq!(second.await.unwrap(), 1);
    assert_eq!(bench.lookup(), Some(1));
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn f12_what_nobody_waits_for_any_more_is_kept() {
    let bench = Bench::new();
    let gate = Arc::new(Semaphore::new(0));
    drop(bench.obtain_through(&gate));
    gate.add_permits(1);
    settle().await;
    assert_eq!(bench.lookup(), Some(1));
}

#[tokio::test]
async fn f13_an_error_is_shared_and_not_tried_again_by_each() {
    let bench = Bench::new();
    let (down, is_down) = oneshot::channel();
    let fetches = bench.fetches.clone();
    let first = bench.cache.obtain(key("user"), None, move || async move {
        fetches.fetch_add(1, SeqCst);
        Err(is_down.await.unwrap())
    });
    let others: Vec<_> = (0..50)
        .map(|_| bench.obtain(|number| Ok(Obtained::new(number))))
        .collect();
    drop(down.send(unavailable()));
    assert_eq!(first.await.unwrap_err().kind(), AuthErrorKind::Unavailable);
    for other in others {
        let error = other.await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert_eq!(error.to_string(), "the issuer is down");
    }
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn f13_the_back_off_doubles_up_to_a_minute_and_a_success_resets_it() {
    let bench = Bench::new();
    for longest in [2, 4, 8, 16, 32, 60, 60] {
        let before = bench.fetches();
        let error = bench.obtain_failing(unavailable()).await.unwrap_err();
        assert_eq!(bench.fetches(), before + 1);
        let pause = error.retry_after().unwrap();
        assert_is_pause(pause, longest * SECOND);

        bench.clock.advance(pause - MOMENT);
        let error = bench.obtain_for_an_hour().await.unwrap_err();
        assert_eq!(error.retry_after(), Some(MOMENT));
        assert_eq!(bench.fetches(), before + 1);
        bench.clock.advance(MOMENT);
    }
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(HOUR);
    let error = bench.obtain_failing(unavailable()).await.unwrap_err();
    assert_is_pause(error.retry_after().unwrap(), FIRST_PAUSE);
}

fn assert_is_pause(pause: Duration, longest: Duration) {
    assert!((longest / 2..=longest).contains(&pause), "{pause:?}");
}

#[tokio::test]
async fn f13_the_issuers_retry_after_is_honoured_within_reason() {
    for (asked, shortest, longest) in [
        (Duration::ZERO, SECOND, FIRST_PAUSE),
        (40 * SECOND, 40 * SECOND, 40 * SECOND),
        (24 * HOUR, 5 * MINUTE, 5 * MINUTE),
    ] {
        let bench = Bench::new();
        let error = bench
            .obtain_failing(unavailable().with_retry_after(asked))
            .await;
        let honoured = error.unwrap_err().retry_after().unwrap();
        assert!((shortest..=longest).contains(&honoured), "{honoured:?}");
        bench.clock.advance(honoured - MOMENT);
        assert!(bench.obtain_for_an_hour().await.is_err());
        bench.clock.advance(MOMENT);
        assert!(bench.obtain_for_an_hour().await.is_ok());
    }
}

#[tokio::test]
async fn f14_a_failed_early_refresh_keeps_the_credential_to_its_end() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(HOUR - SHORTEST_WINDOW);
    for left in (1..=240).rev() {
        let answer = bench.obtain_failing(unavailable()).await;
        assert_eq!(answer.unwrap(), 1, "{left} s before the end");
        settle().await;
        bench.clock.advance(SECOND);
    }
    // With the longest pauses after 2, 4, 8, 16, 32, and then every 60 s; with the shortest after half of that.
    let failures = bench.fetches() - 1;
    assert!((8..=12).contains(&failures), "{failures}");
    assert!(bench.obtain_failing(unavailable()).await.is_err());
}

#[tokio::test]
async fn f14_after_a_failed_refresh_the_next_waits_for_the_back_off() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(57 * MINUTE);
    assert_eq!(bench.obtain_failing(unavailable()).await.unwrap(), 1);
    settle().await;
    assert_eq!(bench.fetches(), 2);
    assert_eq!(bench.lookup(), Some(1));
    bench.clock.advance(SECOND - MOMENT);
    assert_eq!(bench.lookup(), Some(1));
    bench.clock.advance(FIRST_PAUSE);
    assert_eq!(
        bench.lookup(),
        None,
        "somebody is to start the next refresh"
    );
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 1);
    settle().await;
    assert_eq!(bench.lookup(), Some(3));
}

#[tokio::test]
async fn f15_any_error_is_recovered_from() {
    for kind in [
        AuthErrorKind::Rejected,
        AuthErrorKind::InsufficientScope,
        AuthErrorKind::Configuration,
        AuthErrorKind::Expired,
        AuthErrorKind::Unavailable,
    ] {
        let bench = Bench::new();
        let error = AuthError::new(kind, "no");
        assert_eq!(bench.obtain_failing(error).await.unwrap_err().kind(), kind);
        bench.clock.advance(10 * SECOND);
        assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2, "{kind:?}");
    }
}

#[tokio::test]
async fn f16_a_missing_end_means_the_short_default() {
    let bench = Bench::new();
    bench
        .obtain(|number| Ok(Obtained::new(number)))
        .await
        .unwrap();
    bench.clock.advance(5 * MINUTE - MOMENT);
    assert!(bench.obtain_failing(unavailable()).await.is_ok());
    bench.clock.advance(MOMENT);
    assert_eq!(bench.lookup(), None);
    assert!(bench.obtain_failing(unavailable()).await.is_err());
}

#[tokio::test]
async fn f16_a_lifetime_of_zero_or_less_is_handed_out_but_not_kept() {
    let bench = Bench::new();
    let now = bench.clock.now();
    for obtained in [
        Obtained::new(7).expires_in(Duration::ZERO),
        Obtained::new(7).expires_at(now),
        Obtained::new(7).expires_at(now - HOUR),
    ] {
        assert_eq!(bench.obtain(|_| Ok(obtained)).await.unwrap(), 7);
        assert_eq!(bench.lookup(), None);
    }
}

#[tokio::test]
async fn f16_a_refresh_that_brings_nothing_to_keep_leaves_the_good_credential() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(57 * MINUTE);
    let refresh = bench.obtain(|number| Ok(Obtained::new(number).expires_in(Duration::ZERO)));
    assert_eq!(refresh.await.unwrap(), 1);
    settle().await;
    assert_eq!(bench.fetches(), 2);
    assert_eq!(bench.lookup(), Some(1));
    bench.clock.advance(10 * SECOND);
    assert_eq!(
        bench.lookup(),
        None,
        "somebody is to start the next refresh"
    );
}

#[tokio::test]
async fn f16_a_huge_lifetime_is_cut_to_a_day() {
    let forever = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    for huge in [
        Obtained::new(1).expires_in(Duration::MAX),
        Obtained::new(1).expires_at(forever),
    ] {
        let bench = Bench::new();
        bench.obtain(|_| Ok(huge)).await.unwrap();
        bench.clock.advance(23 * HOUR);
        assert_eq!(bench.lookup(), Some(1));
        bench.clock.advance(HOUR);
        assert_eq!(bench.lookup(), None);
    }
}

#[tokio::test]
async fn a_lifetime_is_counted_from_when_the_credential_was_asked_for() {
    let bench = Bench::new();
    let clock = bench.clock.clone();
    let slow = bench.obtain(move |number| {
        clock.advance(MINUTE);
        Ok(Obtained::new(number).expires_in(2 * MINUTE))
    });
    slow.await.unwrap();
    bench.clock.advance(MINUTE - MOMENT);
    assert!(bench.obtain_failing(unavailable()).await.is_ok());
    bench.clock.advance(MOMENT);
    assert!(bench.obtain_failing(unavailable()).await.is_err());
}

#[tokio::test]
async fn f20_a_rejection_is_remembered_for_ten_seconds() {
    let bench = Bench::new();
    bench.obtain_failing(rejected()).await.unwrap_err();
    for _ in 0..100 {
        let error = bench.obtain_for_an_hour().await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
    }
    bench.clock.advance(10 * SECOND - MOMENT);
    bench.obtain_for_an_hour().await.unwrap_err();
    assert_eq!(bench.fetches(), 1);
    bench.clock.advance(MOMENT);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2);
}

#[tokio::test]
async fn f20_one_users_rejection_does_not_bar_another() {
    let bench = Bench::new();
    bench.obtain_failing(rejected()).await.unwrap_err();
    let other = bench
        .cache
        .obtain(key("other"), None, || async { Ok(Obtained::new(7)) });
    assert_eq!(other.await.unwrap(), 7);
}

#[tokio::test]
async fn f21_many_calls_rejected_with_the_same_credential_cause_one_refresh() {
    let bench = Bench::new();
    let held = bench.obtain_for_an_hour().await.unwrap();
    let gate = Arc::new(Semaphore::new(100));
    let calls: Vec<_> = (0..100)
        .map(|_| {
            assert!(bench.reject(held));
            bench.replace_through(held, &gate)
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 2);
    }
    // One whose answer came late, with the old credential.
    assert!(bench.reject(held));
    assert_eq!(bench.lookup(), Some(2));
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test]
async fn f21_a_rejected_credential_does_not_come_back_to_its_caller_when_the_refresh_fails() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    assert!(bench.reject(1));
    let error = bench.replace(1, |_| Err(unavailable())).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    let error = bench.replace(1, |_| Err(unavailable())).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test]
async fn f44_a_refresh_is_forced_at_most_once_in_10_seconds() {
    let bench = Bench::new();
    let mut held = bench.obtain_for_an_hour().await.unwrap();
    for window in 1..=3 {
        for call in 0..100 {
            let is_first = call == 0;
            assert_eq!(bench.reject(held), is_first);
            if is_first {
                held = bench.replace_for_an_hour(held).await.unwrap();
            }
            assert_eq!(bench.lookup(), Some(held));
        }
        assert_eq!(bench.fetches(), 1 + window);
        bench.clock.advance(10 * SECOND - MOMENT);
        assert!(!bench.reject(held));
        bench.clock.advance(MOMENT);
    }
}

#[tokio::test]
async fn f44_others_get_the_old_credential_until_the_new_one_is_there() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    assert!(bench.reject(1));
    let rejected = tokio::spawn(bench.replace_through(1, &gate));
    settle().await;
    for _ in 0..10 {
        assert_eq!(bench.lookup(), Some(1));
        let other = bench.obtain_for_an_hour().now_or_never();
        assert_eq!(other.unwrap().unwrap(), 1);
    }
    let also_rejected = tokio::spawn(bench.replace_through(1, &gate));
    settle().await;
    assert!(!rejected.is_finished() && !also_rejected.is_finished());
    gate.add_permits(1);
    for caller in [rejected, also_rejected] {
        assert_eq!(caller.await.unwrap().unwrap(), 2);
    }
    assert_eq!(bench.lookup(), Some(2));
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test]
async fn f44_while_the_issuer_is_down_others_keep_the_old_credential() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    let down = unavailable().with_retry_after(MINUTE);
    assert!(bench.reject(1));
    let error = bench.replace(1, |_| Err(down)).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    // Nothing is forced before the issuer may be asked again.
    for _ in 0..5 {
        assert!(!bench.reject(1));
        assert_eq!(bench.lookup(), Some(1));
        bench.clock.advance(11 * SECOND);
    }
    assert_eq!(bench.fetches(), 2);
    // Nor is it asked when it may be, unless there is another rejection.
    bench.clock.advance(MINUTE);
    assert_eq!(bench.lookup(), Some(1));
    assert!(bench.reject(1));
    assert_eq!(bench.replace_for_an_hour(1).await.unwrap(), 3);
}

#[tokio::test]
async fn f44_another_caller_who_starts_the_forced_refresh_gets_the_old_credential_if_it_fails() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    assert!(bench.reject(1));
    assert_eq!(bench.obtain_failing(rejected()).await.unwrap(), 1);
    assert_eq!(bench.lookup(), Some(1));
}

#[tokio::test]
async fn f44_rejecting_a_credential_that_was_replaced_forces_nothing() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(HOUR - 20 * SECOND);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2);
    assert!(bench.reject(1));
    assert_eq!(bench.lookup(), Some(2));
    assert_eq!(bench.replace_for_an_hour(1).await.unwrap(), 2);
    // So the refresh of the present one can still be forced.
    assert!(bench.reject(2));
    assert_eq!(bench.replace_for_an_hour(2).await.unwrap(), 3);
}

#[tokio::test]
async fn f44_a_credential_that_is_not_kept_is_replaced_once_in_10_seconds() {
    let bench = Bench::new();
    let used_once = |number| Ok(Obtained::new(number).expires_in(Duration::ZERO));
    bench.obtain(used_once).await.unwrap();
    assert!(bench.reject(1));
    assert!(!bench.reject(1));
    bench.clock.advance(10 * SECOND);
    assert!(bench.reject(1));
}

#[tokio::test]
async fn f44_a_caller_that_sent_the_same_credential_and_was_not_rejected_gets_it() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    assert_eq!(bench.replace_for_an_hour(1).await.unwrap(), 1);
    assert_eq!(bench.fetches(), 1);
}

#[tokio::test]
async fn in_the_advisory_window_one_caller_refreshes_and_nobody_waits() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(HOUR - LONGEST_WINDOW - MOMENT);
    assert_eq!(bench.lookup(), Some(1));
    bench
        .clock
        .advance(LONGEST_WINDOW - SHORTEST_WINDOW + 2 * MOMENT);
    assert_eq!(bench.lookup(), None, "somebody is to start the refresh");

    let gate = Arc::new(Semaphore::new(0));
    for _ in 0..10 {
        assert_eq!(bench.obtain_through(&gate).await.unwrap(), 1);
        settle().await;
        assert_eq!(bench.lookup(), Some(1));
    }
    assert_eq!(bench.fetches(), 2);
    gate.add_permits(1);
    settle().await;
    assert_eq!(bench.lookup(), Some(2));
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test]
async fn the_advisory_window_is_a_quarter_of_a_short_lifetime_and_less_by_chance() {
    let (longest, shortest) = (100 * SECOND, 80 * SECOND);
    for _ in 0..20 {
        let bench = Bench::new();
        bench
            .obtain(|number| Ok(Obtained::new(number).expires_in(400 * SECOND)))
            .await
            .unwrap();
        bench.clock.advance(400 * SECOND - longest - MOMENT);
        assert_eq!(bench.lookup(), Some(1));
        bench.clock.advance(longest - shortest + 2 * MOMENT);
        assert_eq!(bench.lookup(), None);
    }
}

#[test]
fn in_the_advisory_window_nobody_waits_for_what_is_done_under_another_key() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let bench = HaltingBench::new();
    let keys: Vec<_> = (0..20).map(|number| key(&number.to_string())).collect();
    for &key in &keys {
        runtime.block_on(bench.obtain(key)).unwrap();
    }
    bench.clock.advance(HOUR - SHORTEST_WINDOW + MOMENT);
    let mut others = keys[1..].iter().copied();
    let halts = at_each_halt(
        || drop(bench.obtain(keys[0])),
        || {
            let answer = bench.obtain_elsewhere(&runtime, others.next().unwrap());
            let is_at_hand = answer.recv_timeout(MINUTE);
            assert!(is_at_hand.expect("it waits for another key's caller"));
        },
    );
    assert!(halts >= 3, "{halts}");
}

#[test]
fn f45_a_clock_and_a_credentials_clone_and_drop_hold_up_nobody_of_the_same_key() {
    let runtime = runtime();
    let _entered = runtime.enter();
    type Call = fn(&HaltingBench);
    let calls: [(&str, Call); 4] = [
        ("user", |bench| drop(bench.cache.lookup(&key("user"), None))),
        ("user", |bench| drop(bench.obtain(key("user")))),
        ("user", |bench| {
            let is_rejected = |kept: &Halting| kept.clone().number == 0;
            assert!(bench.cache.reject(&key("user"), is_rejected));
        }),
        ("another", |bench| {
            let runtime = self::runtime();
            let obtained = runtime.block_on(async { bench.obtain(key("another")).await });
            drop(obtained);
        }),
    ];
    for (user, call) in calls {
        let bench = HaltingBench::new();
        runtime.block_on(bench.obtain(key("user"))).unwrap();
        let mut passed = 0;
        let halts = at_each_halt(
            || call(&bench),
            || {
                passed += 1;
                // At its first two halts the call reads the clock: a rejection then would keep it from the credential.
                if passed <= 2 {
                    return;
                }
                let (done, answered) = mpsc::channel();
                let cache = bench.cache.clone();
                // This takes every lock that there is for a key.
                thread::spawn(move || done.send(cache.reject(&key(user), |_| true)));
                let answered = answered.recv_timeout(10 * SECOND);
                answered.expect("it waits for a caller of the same key");
            },
        );
        assert!(halts >= 4, "{halts}");
    }
}

#[test]
fn f11_what_lands_after_a_caller_has_read_the_clock_is_not_fetched_again() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let bench = HaltingBench::new();
    runtime.block_on(bench.obtain(key("user"))).unwrap();
    bench.clock.advance(HOUR - 10 * SECOND);
    let mut is_first = true;
    at_each_halt(
        || {
            let answer = bench.obtain(key("user")).now_or_never();
            assert_eq!(answer.unwrap().unwrap().number, 2);
        },
        || {
            if std::mem::take(&mut is_first) {
                runtime.block_on(bench.obtain(key("user"))).unwrap();
            }
        },
    );
    runtime.block_on(settle());
    assert_eq!(bench.fetches.load(SeqCst), 2);
}

/// A credential whose every clone and drop is a place where a thread can be halted.
struct Halting {
    number: u64,
}

impl Clone for Halting {
    fn clone(&self) -> Self {
        halt();
        Self {
            number: self.number,
        }
    }
}

impl Drop for Halting {
    fn drop(&mut self) {
        halt();
    }
}

/// A clock that can be halted where it is read.
#[derive(Debug)]
struct HaltingClock(ManualClock);

impl Clock for HaltingClock {
    fn now(&self) -> SystemTime {
        halt();
        self.0.now()
    }

    fn monotonic(&self) -> std::time::Instant {
        halt();
        self.0.monotonic()
    }
}

impl std::ops::Deref for HaltingClock {
    type Target = ManualClock;

    fn deref(&self) -> &ManualClock {
        &self.0
    }
}

fn halt() {
    HALT.with_borrow(|halt| {
        if let Some(Halt { reached, go_on }) = halt {
            // It goes on by itself if the test has failed.
            let _ = reached.send(());
            let _ = go_on.recv();
        }
    });
}

struct Halt {
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

thread_local! {
    static HALT: RefCell<Option<Halt>> = const { RefCell::new(None) };
}

/// Runs `call` on a thread of its own, and `meanwhile` each time that it halts. Returns how often that was.
fn at_each_halt(call: impl FnOnce() + Send, mut meanwhile: impl FnMut()) -> usize {
    let runtime = tokio::runtime::Handle::current();
    let (reached, halts) = mpsc::channel();
    let (proceed, go_on) = mpsc::channel();
    let mut count = 0;
    thread::scope(|scope| {
        let proceed = proceed;
        scope.spawn(move || {
            let _entered = runtime.enter();
            HALT.set(Some(Halt { reached, go_on }));
            call();
            drop(HALT.take());
        });
        while halts.recv().is_ok() {
            meanwhile();
            count += 1;
            let _ = proceed.send(());
        }
    });
    count
}

/// A cache of credentials of an hour.
#[derive(Clone)]
struct HaltingBench {
    cache: CredentialCache<Halting>,
    clock: Arc<HaltingClock>,
    fetches: Arc<AtomicU64>,
}

impl HaltingBench {
    fn new() -> Self {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + 500_000 * HOUR);
        let clock = Arc::new(HaltingClock(clock));
        let cache = CredentialCache::builder().clock(clock.clone());
        Self {
            cache: cache.build().unwrap(),
            clock,
            fetches: Arc::default(),
        }
    }

    fn obtain(&self, key: CacheKey) -> Obtaining<Halting> {
        let fetches = self.fetches.clone();
        self.cache.obtain(key, None, move || async move {
            let number = fetches.fetch_add(1, SeqCst) + 1;
            Ok(Obtained::new(Halting { number }).expires_in(HOUR))
        })
    }

    /// Says on a channel whether another thread gets a credential at once.
    fn obtain_elsewhere(&self, runtime: &Runtime, key: CacheKey) -> mpsc::Receiver<bool> {
        let (done, answered) = mpsc::channel();
        let (bench, runtime) = (self.clone(), runtime.handle().clone());
        thread::spawn(move || {
            let _entered = runtime.enter();
            let answer = bench.obtain(key).now_or_never();
            done.send(answer.is_some_and(|answer| answer.is_ok()))
        });
        answered
    }
}

#[tokio::test]
async fn in_the_mandatory_window_callers_wait() {
    for (lifetime, window) in [(HOUR, 30 * SECOND), (100 * SECOND, 10 * SECOND)] {
        let bench = Bench::new();
        bench
            .obtain(move |number| Ok(Obtained::new(number).expires_in(lifetime)))
            .await
            .unwrap();
        bench.clock.advance(lifetime - window - MOMENT);
        let gate = Arc::new(Semaphore::new(0));
        assert_eq!(bench.obtain_through(&gate).await.unwrap(), 1);
        bench.clock.advance(MOMENT);
        assert_eq!(bench.lookup(), None);
        let waiting = tokio::spawn(bench.obtain_through(&gate));
        settle().await;
        assert!(!waiting.is_finished());
        gate.add_permits(1);
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
        assert_eq!(bench.fetches(), 2);
    }
}

#[tokio::test]
async fn f14_in_the_mandatory_window_a_failed_refresh_yields_the_good_credential() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    bench.clock.advance(HOUR - 20 * SECOND);
    assert_eq!(bench.obtain_failing(rejected()).await.unwrap(), 1);
    // And as the failure is remembered, nobody waits for the next.
    assert_eq!(bench.lookup(), Some(1));
    bench.clock.advance(10 * SECOND);
    assert_eq!(bench.lookup(), None);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 3);
}

#[tokio::test]
async fn setting_the_clock_back_does_not_make_an_expired_credential_fresh() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    let start = bench.clock.now();
    bench.clock.advance(HOUR);
    bench.clock.set(start);
    assert_eq!(bench.lookup(), None);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2);
}

#[tokio::test]
async fn a_suspended_machine_does_not_make_an_expired_credential_fresh() {
    let bench = Bench::new();
    bench.obtain_for_an_hour().await.unwrap();
    // The monotonic time stood still.
    bench.clock.set(bench.clock.now() + HOUR);
    assert_eq!(bench.lookup(), None);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2);
}

#[tokio::test]
async fn f13_the_back_off_does_not_depend_on_the_time_of_day() {
    let bench = Bench::new();
    bench.obtain_failing(unavailable()).await.unwrap_err();
    bench.clock.set(SystemTime::UNIX_EPOCH);
    bench.clock.advance(FIRST_PAUSE);
    assert!(bench.obtain_for_an_hour().await.is_ok());
}

#[tokio::test]
async fn a_panic_is_an_error_for_all_who_wait_and_the_key_stays_usable() {
    let bench = Bench::new();
    let panics = || bench.obtain(|_| panic!("on purpose"));
    let (one, other) = (panics(), panics());
    for error in [one.await.unwrap_err(), other.await.unwrap_err()] {
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(error.to_string().contains("panicked"));
    }
    bench.clock.advance(FIRST_PAUSE);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 2);
}

#[tokio::test]
async fn a_panic_before_the_future_is_made_leaves_the_key_usable() {
    let bench = Bench::new();
    let cache = bench.cache.clone();
    let caller = tokio::spawn(async move {
        let make =
            || -> std::future::Ready<Result<Obtained<u64>, AuthError>> { panic!("on purpose") };
        cache.obtain(key("user"), None, make).await
    });
    assert!(caller.await.unwrap_err().is_panic());
    bench.clock.advance(FIRST_PAUSE);
    assert_eq!(bench.obtain_for_an_hour().await.unwrap(), 1);
}

#[test]
fn a_runtime_that_is_shut_down_leaves_the_key_usable() {
    let bench = Bench::new();
    let first = runtime();
    let entered = first.enter();
    let waiting = bench.obtain_through(&Arc::new(Semaphore::new(0)));
    drop(entered);
    drop(first);
    let second = runtime();
    let error = second.block_on(waiting).unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    bench.clock.advance(FIRST_PAUSE);
    assert!(
        second
            .block_on(async { bench.obtain_for_an_hour().await })
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_never_ends_is_given_up() {
    let bench = Bench::new();
    let never = bench.cache.obtain(key("user"), None, std::future::pending);
    let error = never.await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    bench.clock.advance(FIRST_PAUSE);
    assert!(bench.obtain_for_an_hour().await.is_ok());
}

#[test]
fn without_a_runtime_obtaining_is_an_error_and_a_good_credential_is_used() {
    let bench = Bench::new();
    let runtime = runtime();
    let error = futures_util::FutureExt::now_or_never(bench.obtain_for_an_hour());
    assert_eq!(
        error.unwrap().unwrap_err().kind(),
        AuthErrorKind::Configuration
    );

    runtime
        .block_on(async { bench.obtain_for_an_hour().await })
        .unwrap();
    bench.clock.advance(58 * MINUTE);
    let answer = futures_util::FutureExt::now_or_never(bench.obtain_for_an_hour());
    assert_eq!(answer.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_full_cache_drops_some() {
    let cache = CredentialCache::builder().capacity(8).build().unwrap();
    for user in 0..100 {
        let obtained = cache.obtain(key(&user.to_string()), None, || async move {
            Ok(Obtained::new(user).expires_in(HOUR))
        });
        assert_eq!(obtained.await.unwrap(), user);
    }
    let kept = (0..100)
        .filter(|user| {
            cache
                .lookup(&key(&user.to_string()), None)
                .unwrap()
                .is_some()
        })
        .count();
    assert!((1..=8).contains(&kept), "{kept} are kept");
}

#[tokio::test]
async fn failures_push_out_no_credential() {
    let cache = CredentialCache::builder().capacity(8).build().unwrap();
    let good = cache.obtain(key("good"), None, || async {
        Ok(Obtained::new(1).expires_in(HOUR))
    });
    good.await.unwrap();
    for user in 0..1000 {
        let failed = cache.obtain(key(&user.to_string()), None, || async { Err(rejected()) });
        failed.await.unwrap_err();
    }
    assert_eq!(cache.lookup(&key("good"), None).unwrap(), Some(1));
}

#[test]
fn settings_of_zero_are_refused() {
    let error = CredentialCache::<u64>::builder()
        .capacity(0)
        .build()
        .unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "capacity");
    let error = CredentialCache::<u64>::builder()
        .default_lifetime(Duration::ZERO)
        .build()
        .unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "default_lifetime");
}

#[tokio::test]
async fn a_hit_allocates_nothing() {
    let cache = CredentialCache::builder().build().unwrap();
    let key = key("user");
    let subject_expires_at = Some(SystemTime::now() + HOUR);
    let obtained = cache.obtain(key, subject_expires_at, || async {
        Ok(Obtained::new(token("exchanged")).expires_in(HOUR))
    });
    obtained.await.unwrap();
    let info = allocation_counter::measure(|| {
        cache.lookup(&key, subject_expires_at).unwrap().unwrap();
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn an_entry_takes_at_most_512_bytes_beside_its_token() {
    const ENTRIES: usize = 10_000;
    let runtime = runtime();
    let keys: Vec<_> = (0..ENTRIES).map(|user| key(&user.to_string())).collect();
    let mut kept = None;
    let info = allocation_counter::measure(|| {
        let cache = CredentialCache::builder().build().unwrap();
        runtime.block_on(async {
            for key in &keys {
                let obtained = cache.obtain(*key, None, || async {
                    Ok(Obtained::new(token(&"t".repeat(1024))).expires_in(HOUR))
                });
                obtained.await.unwrap();
            }
        });
        kept = Some(cache);
    });
    let kept = kept.unwrap();
    assert!(
        keys.iter()
            .all(|key| kept.lookup(key, None).unwrap().is_some())
    );
    let each = info.bytes_current / ENTRIES as i64;
    println!("{each} bytes for each entry of a token of 1024");
    assert!(each <= 1024 + 512, "{each}");
}

#[derive(Clone, Debug)]
enum Step {
    Call {
        user: usize,
        ends_in: Option<u32>,
    },
    GiveUp {
        caller: prop::sample::Index,
    },
    Answer {
        fetch: prop::sample::Index,
        lifetime: Option<u32>,
    },
    Fail {
        fetch: prop::sample::Index,
        kind: AuthErrorKind,
    },
    Crash {
        fetch: prop::sample::Index,
    },
    Reject {
        user: usize,
    },
    Wait {
        seconds: u32,
    },
    SetTime {
        seconds: i32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let kind = prop_oneof![
        Just(AuthErrorKind::Rejected),
        Just(AuthErrorKind::Unavailable),
        Just(AuthErrorKind::Configuration)
    ];
    prop_oneof![
        8 => (0..3_usize, prop::option::of(0..200_u32)).prop_map(|(user, ends_in)| Step::Call { user, ends_in }),
        2 => index().prop_map(|caller| Step::GiveUp { caller }),
        4 => (index(), prop::option::of(0..200_u32)).prop_map(|(fetch, lifetime)| Step::Answer { fetch, lifetime }),
        2 => (index(), kind).prop_map(|(fetch, kind)| Step::Fail { fetch, kind }),
        1 => index().prop_map(|fetch| Step::Crash { fetch }),
        1 => (0..3_usize).prop_map(|user| Step::Reject { user }),
        3 => (0..100_u32).prop_map(|seconds| Step::Wait { seconds }),
        1 => (-300..300_i32).prop_map(|seconds| Step::SetTime { seconds }),
    ]
}

/// Whose it is, and which.
type Credential = (usize, u64);

type Answer = oneshot::Sender<Result<Obtained<Credential>, AuthError>>;

#[derive(Default)]
struct Issuer {
    asked: u64,
    open: Vec<(usize, Answer)>,
    under_way: HashMap<usize, usize>,
}

/// One fetch under way, from its start to its end, whatever that is.
struct UnderWay {
    user: usize,
    issuer: Arc<Mutex<Issuer>>,
}

impl UnderWay {
    fn start(user: usize, issuer: &Arc<Mutex<Issuer>>) -> Self {
        let mut state = issuer.lock().unwrap();
        let fetches = state.under_way.entry(user).or_default();
        *fetches += 1;
        assert_eq!(*fetches, 1, "two fetches at once for user {user}");
        Self {
            user,
            issuer: issuer.clone(),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self
            .issuer
            .lock()
            .unwrap()
            .under_way
            .get_mut(&self.user)
            .unwrap() -= 1;
    }
}

async fn interleave(steps: Vec<Step>) {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + 500_000 * HOUR));
    let cache = CredentialCache::<Credential>::builder()
        .clock(clock.clone())
        .capacity(2)
        .build()
        .unwrap();
    let keys = ["alice", "bob", "carol"].map(key);
    let issuer = Arc::new(Mutex::new(Issuer::default()));
    let mut callers: Vec<(
        usize,
        tokio::task::JoinHandle<Result<Credential, AuthError>>,
    )> = Vec::new();

    for step in steps {
        match step {
            Step::Call { user, ends_in } => {
                let subject_expires_at = ends_in.map(|seconds| clock.now() + seconds * SECOND);
                match cache.lookup(&keys[user], subject_expires_at) {
                    Ok(Some((owner, _))) => {
                        assert_eq!(owner, user);
                        assert_ne!(ends_in, Some(0), "an expired subject got a hit");
                    }
                    Ok(None) => {
                        let issuer = issuer.clone();
                        let obtaining =
                            cache.obtain(keys[user], subject_expires_at, || async move {
                                let _under_way = UnderWay::start(user, &issuer);
                                let (answer, answered) = oneshot::channel();
                                issuer.lock().unwrap().open.push((user, answer));
                                answered.await.expect("on purpose")
                            });
                        callers.push((user, tokio::spawn(obtaining)));
                    }
                    Err(error) => assert_eq!(error.kind(), AuthErrorKind::Expired),
                }
            }
            Step::GiveUp { caller } => {
                if !callers.is_empty() {
                    callers.remove(caller.index(callers.len())).1.abort();
                }
            }
            Step::Answer { fetch, lifetime } => {
                if let Some((user, answer)) = issuer.take(fetch) {
                    let mut obtained = Obtained::new((user, issuer.next_number()));
                    if let Some(seconds) = lifetime {
                        obtained = obtained.expires_in(seconds * SECOND);
                    }
                    answer.send(Ok(obtained)).unwrap();
                }
            }
            Step::Fail { fetch, kind } => {
                if let Some((_, answer)) = issuer.take(fetch) {
                    answer.send(Err(AuthError::new(kind, "no"))).unwrap();
                }
            }
            Step::Crash { fetch } => drop(issuer.take(fetch)),
            Step::Reject { user } => {
                cache.reject(&keys[user], |_| true);
            }
            Step::Wait { seconds } => clock.advance(seconds * SECOND),
            Step::SetTime { seconds } => {
                let by = seconds.unsigned_abs() * SECOND;
                clock.set(if seconds < 0 {
                    clock.now() - by
                } else {
                    clock.now() + by
                });
            }
        }
        settle().await;
    }

    for (_, answer) in issuer.lock().unwrap().open.drain(..) {
        drop(answer.send(Err(unavailable())));
    }
    for (user, caller) in callers {
        if let Ok((owner, _)) = caller.await.unwrap() {
            assert_eq!(owner, user);
        }
    }
    settle().await;
    assert!(
        issuer
            .lock()
            .unwrap()
            .under_way
            .values()
            .all(|&fetches| fetches == 0)
    );

    // No fetch was left behind: everybody is served again.
    clock.advance(HOUR);
    for (user, key) in keys.into_iter().enumerate() {
        let served = cache.obtain(key, None, || async move { Ok(Obtained::new((user, 0))) });
        assert_eq!(served.await.unwrap(), (user, 0));
    }
}

trait SharedIssuer {
    fn take(&self, fetch: prop::sample::Index) -> Option<(usize, Answer)>;
    fn next_number(&self) -> u64;
}

impl SharedIssuer for Arc<Mutex<Issuer>> {
    fn take(&self, fetch: prop::sample::Index) -> Option<(usize, Answer)> {
        let mut issuer = self.lock().unwrap();
        let open = issuer.open.len();
        (open > 0).then(|| issuer.open.remove(fetch.index(open)))
    }

    fn next_number(&self) -> u64 {
        let mut issuer = self.lock().unwrap();
        issuer.asked += 1;
        issuer.asked
    }
}

proptest! {
    #[test]
    fn f06_no_interleaving_gives_a_user_anothers_credential_or_asks_twice_at_once(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = runtime();
        runtime.block_on(interleave(steps));
    }
}
