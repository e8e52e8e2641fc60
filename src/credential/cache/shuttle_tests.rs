//! The single-flight under shuttle's schedulers, with callers that give up at every await point.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --features token-exchange --lib shuttle_tests`

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use shuttle::{
    future::{block_on, spawn, yield_now},
    rand::{Rng, thread_rng},
};

use crate::{
    secret::Secret,
    shuttle_tests::{SwitchingClock, check, poll_at_most},
};

use super::{key::CacheScope, *};

const LIFETIME: Duration = Duration::from_secs(1000);

type Credential = (usize, usize);

/// A cache for two users, and an issuer that refuses to be asked twice at once for one of them.
#[derive(Clone)]
struct Bench {
    cache: CredentialCache<Credential>,
    clock: Arc<SwitchingClock>,
    asked: Arc<[AtomicUsize; 2]>,
    under_way: Arc<[AtomicUsize; 2]>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(SwitchingClock::default());
        Self {
            cache: CredentialCache::builder()
                .clock(clock.clone())
                .build()
                .unwrap(),
            clock,
            asked: Arc::default(),
            under_way: Arc::default(),
        }
    }

    /// Obtains, with an issuer that takes `pauses` turns and then fails or not.
    fn obtain(&self, user: usize, pauses: usize, fails: bool) -> Obtaining<Credential> {
        self.replace((user, 0), pauses, fails)
    }

    /// Like [`obtain`](Self::obtain), for a caller whose credential was rejected.
    fn replace(&self, rejected: Credential, pauses: usize, fails: bool) -> Obtaining<Credential> {
        let bench = self.clone();
        let user = rejected.0;
        let is_rejected = |&kept: &Credential| kept == rejected;
        self.cache
            .replace(key(user), None, is_rejected, || async move {
                assert_eq!(
                    bench.under_way[user].fetch_add(1, SeqCst),
                    0,
                    "two fetches at once"
                );
                let number = bench.asked[user].fetch_add(1, SeqCst) + 1;
                for _ in 0..pauses {
                    yield_now().await;
                }
                bench.under_way[user].fetch_sub(1, SeqCst);
                if fails {
                    return Err(AuthError::new(AuthErrorKind::Unavailable, "down"));
                }
                Ok(Obtained::new((user, number)).expires_in(LIFETIME))
            })
    }

    fn asked(&self, user: usize) -> usize {
        self.asked[user].load(SeqCst)
    }

    fn assert_nothing_is_under_way(&self) {
        assert!(self.cache.inner.single_flight.is_idle());
        assert!(
            self.under_way
                .iter()
                .all(|fetches| fetches.load(SeqCst) == 0)
        );
    }
}

fn key(user: usize) -> CacheKey {
    CacheScope::new("test").key(Secret::new(user.to_string()).unwrap().fingerprint())
}

#[test]
fn callers_who_give_up_anywhere_cause_one_fetch_that_ends() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            let callers: Vec<_> = (0..5)
                .map(|caller| {
                    let bench = bench.clone();
                    let user = caller % 2;
                    let pauses = thread_rng().gen_range(0..3);
                    let polls = thread_rng().gen_range(0..3);
                    spawn(async move {
                        let obtaining = bench.obtain(user, pauses, false);
                        if let Some(answer) = poll_at_most(polls, obtaining).await {
                            assert_eq!(answer.unwrap(), (user, 1));
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            for user in 0..2 {
                assert_eq!(bench.obtain(user, 0, false).await.unwrap(), (user, 1));
                assert_eq!(bench.asked(user), 1);
            }
            settle(&bench).await;
        });
    });
}

#[test]
fn a_failure_reaches_all_who_wait_and_is_not_tried_again() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let bench = bench.clone();
                    spawn(async move { bench.obtain(0, 1, true).await })
                })
                .collect();
            for caller in callers {
                assert_eq!(
                    caller.await.unwrap().unwrap_err().kind(),
                    AuthErrorKind::Unavailable
                );
            }
            assert_eq!(bench.asked(0), 1);
            settle(&bench).await;
        });
    });
}

#[test]
fn rejections_of_one_credential_cause_one_refresh_and_others_keep_it_meanwhile() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            let held = bench.obtain(0, 0, false).await.unwrap();
            let fails = thread_rng().gen_range(0..2) == 0;
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let bench = bench.clone();
                    spawn(async move {
                        if !bench.cache.reject(&key(0), |&kept| kept == held) {
                            assert!(fails, "there is no other although the issuer is up");
                            return;
                        }
                        match bench.replace(held, 1, fails).await {
                            Ok(another) => assert_eq!((another, fails), ((0, 2), false)),
                            Err(_) => assert!(fails),
                        }
                    })
                })
                .collect();
            let other = {
                let bench = bench.clone();
                spawn(async move {
                    let number = bench.obtain(0, 1, fails).await.unwrap().1;
                    assert!(number == 1 || (number == 2 && !fails));
                })
            };
            for caller in callers {
                caller.await.unwrap();
            }
            other.await.unwrap();
            settle(&bench).await;
            assert_eq!(bench.asked(0), 2);
            let kept = bench.cache.lookup(&key(0), None).unwrap();
            assert_eq!(kept, Some((0, if fails { 1 } else { 2 })));
        });
    });
}

#[test]
fn a_leader_that_comes_back_and_followers_that_take_over_store_one_result() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            let call = || Call {
                key: key(0),
                subject_expires_at: None,
                now: bench.cache.inner.now(),
                rejected: None,
            };
            let Role::Leader(new_fetch) = bench.cache.inner.join(&call()) else {
                panic!("there is another leader");
            };
            let running = new_fetch.leader.running();
            running.offer_spare(async || Ok(Obtained::new((0, 2)).expires_in(LIFETIME)));

            // It comes back at any time.
            let first = spawn(new_fetch.leader.run(async {
                yield_now().await;
                Ok(Obtained::new((0, 1)).expires_in(LIFETIME))
            }));
            let followers: Vec<_> = (0..3)
                .map(|_| {
                    let (cache, mut call) = (Arc::clone(&bench.cache.inner), call());
                    let running = Arc::clone(&running);
                    spawn(async move {
                        match cache.give_up_on(&mut call, &running).unwrap() {
                            ControlFlow::Break(credential) => credential,
                            ControlFlow::Continue(next) => cache.wait(call, next).await.unwrap(),
                        }
                    })
                })
                .collect();
            first.await.unwrap();
            let mut result = Vec::new();
            for follower in followers {
                result.push(follower.await.unwrap());
            }
            settle(&bench).await;
            let kept = bench.cache.lookup(&key(0), None).unwrap().unwrap();
            assert!(result.iter().all(|&credential| credential == kept));
        });
    });
}

#[test]
fn an_early_refresh_is_started_once_and_never_lost() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            bench.obtain(0, 0, false).await.unwrap();
            // In the advisory window, in the mandatory one, or beyond the end.
            let passed = [800, 980, 1000][thread_rng().gen_range(0..3)];
            let fails = thread_rng().gen_range(0..2) == 0;
            bench.clock.advance(Duration::from_secs(passed));
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let bench = bench.clone();
                    spawn(async move {
                        match bench.obtain(0, 1, fails).await {
                            Ok((user, number)) => assert!(user == 0 && (1..=2).contains(&number)),
                            Err(_) => assert!(fails && passed == 1000),
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            settle(&bench).await;
            assert_eq!(bench.asked(0), 2);

            // A refresh that failed is tried again after the back-off.
            bench.clock.advance(Duration::from_secs(1));
            drop(bench.obtain(0, 0, false).await);
            settle(&bench).await;
            let number = if fails { 3 } else { 2 };
            assert_eq!(
                bench.cache.lookup(&key(0), None).unwrap(),
                Some((0, number))
            );
        });
    });
}

#[test]
fn a_leader_that_is_dropped_answers_all_its_followers() {
    check(|| {
        block_on(async {
            let bench = Bench::new();
            let call = Call {
                key: key(0),
                subject_expires_at: None,
                now: bench.cache.inner.now(),
                rejected: None,
            };
            let Role::Leader(new_fetch) = bench.cache.inner.join(&call) else {
                panic!("there is another leader");
            };
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let bench = bench.clone();
                    spawn(async move { bench.obtain(0, 0, false).await })
                })
                .collect();
            let dropping = spawn(async move { drop(new_fetch) });
            for caller in callers {
                assert_eq!(
                    caller.await.unwrap().unwrap_err().kind(),
                    AuthErrorKind::Unavailable
                );
            }
            dropping.await.unwrap();
            assert_eq!(bench.asked(0), 0);
            settle(&bench).await;
        });
    });
}

/// Waits for the fetches whose callers gave up.
async fn settle(bench: &Bench) {
    while !bench.cache.inner.single_flight.is_idle() {
        yield_now().await;
    }
    bench.assert_nothing_is_under_way();
}
