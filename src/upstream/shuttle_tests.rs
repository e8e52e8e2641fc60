//! The upstream tokens of a session, under shuttle's schedulers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use shuttle::{
    future::{block_on, spawn, yield_now},
    rand::{Rng, thread_rng},
};

use crate::{
    clock::Clock,
    identity::UpstreamToken,
    secret::{AccessToken, Secret},
    shuttle_tests::{SwitchingClock, check_stack, poll_at_most},
};

use super::{
    TokenOwner, UpstreamFuture,
    provider::Provider,
    refresher::{Refreshed, Refresher},
    store::{ProviderTokens, UpstreamTokenStore, memory::MemoryStore},
    upstream_tokens::UpstreamTokens,
};

const GITHUB: &str = "github";
const LIFETIME: Duration = Duration::from_secs(3600);

/// Takes each refresh token once, in turn.
#[derive(Clone, Debug, Default)]
struct Github {
    spent: Arc<AtomicUsize>,
}

impl Refresher for Github {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let refresh_token = tokens.refresh_token().unwrap().expose().to_owned();
        let spent = Arc::clone(&self.spent);
        Box::pin(async move {
            let number = spent.fetch_add(1, SeqCst);
            assert_eq!(refresh_token, format!("refresh-{number}"), "spent twice");
            yield_now().await;
            Ok(tokens_number(number + 1, now).into())
        })
    }
}

fn alice() -> TokenOwner {
    TokenOwner::new("https://issuer.example.com", "alice").unwrap()
}

fn tokens_number(number: usize, now: SystemTime) -> ProviderTokens {
    let refresh_token = Secret::new(format!("refresh-{number}")).unwrap();
    issued(&format!("access-{number}"), now).with_refresh_token(refresh_token)
}

fn issued(access_token: &str, now: SystemTime) -> ProviderTokens {
    let token = UpstreamToken::new(AccessToken::new(access_token).unwrap());
    ProviderTokens::new(token.with_expires_at(now + LIFETIME), now)
}

/// Two replicas that share a store, and a session in it whose tokens have expired.
struct Replicas {
    upstream: [UpstreamTokens; 2],
    store: MemoryStore,
    github: Github,
    clock: Arc<SwitchingClock>,
}

impl Replicas {
    async fn new() -> Self {
        let clock = Arc::new(SwitchingClock::default());
        let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
        let github = Github::default();
        let replica = || {
            let provider = Provider::builder(GITHUB, github.clone()).build().unwrap();
            UpstreamTokens::new(store.clone(), [provider]).clock(clock.clone())
        };
        let replicas = Self {
            upstream: [replica(), replica()],
            store: store.clone(),
            github: github.clone(),
            clock: clock.clone(),
        };
        let expired = tokens_number(0, clock.now());
        replicas
            .store
            .put(&alice(), GITHUB, &expired)
            .await
            .unwrap();
        clock.advance(LIFETIME);
        replicas
    }

    /// The access token that a request gets at one of the replicas, if it does not give up or is to log in.
    async fn load(upstream: UpstreamTokens, polls: usize) -> Option<String> {
        let loaded = poll_at_most(polls, upstream.load(&alice())).await?.unwrap();
        assert!(loaded.failed().is_empty(), "{loaded:?}");
        let token = loaded.tokens().get(GITHUB)?;
        Some(token.access_token().expose().to_owned())
    }

    fn requests(&self) -> Vec<shuttle::future::JoinHandle<Option<String>>> {
        let requests = (0..4).map(|number| {
            let polls = [1, 2, usize::MAX][thread_rng().gen_range(0..3)];
            spawn(Self::load(self.upstream[number % 2].clone(), polls))
        });
        requests.collect()
    }
}

#[test]
fn a_refresh_token_is_spent_once_by_two_replicas_whose_callers_give_up_anywhere() {
    check_stack(|| {
        block_on(async {
            let replicas = Replicas::new().await;
            for request in replicas.requests() {
                if let Some(token) = request.await.unwrap() {
                    assert_eq!(token, "access-1");
                }
            }
            for upstream in &replicas.upstream {
                let token = Replicas::load(upstream.clone(), usize::MAX).await;
                assert_eq!(token.as_deref(), Some("access-1"));
            }
            assert_eq!(replicas.github.spent.load(SeqCst), 1);
        });
    });
}

#[test]
fn a_log_in_and_a_log_out_outlast_the_refreshes_that_are_under_way() {
    check_stack(|| {
        block_on(async {
            let replicas = Replicas::new().await;
            let requests = replicas.requests();
            let logs_in = thread_rng().gen_range(0..2) == 0;
            let (store, now) = (replicas.store.clone(), replicas.clock.now());
            let change = spawn(async move {
                yield_now().await;
                if logs_in {
                    let tokens = issued("access-of-log-in", now);
                    store.put(&alice(), GITHUB, &tokens).await.unwrap();
                } else {
                    store.remove(&alice()).await.unwrap();
                }
            });
            change.await.unwrap();
            for request in requests {
                request.await.unwrap();
            }
            // Refreshes that nobody waits for may still be under way, and must not undo it either.
            for _ in 0..5 {
                let token = Replicas::load(replicas.upstream[0].clone(), usize::MAX).await;
                assert_eq!(token.as_deref(), logs_in.then_some("access-of-log-in"));
                yield_now().await;
            }
        });
    });
}
