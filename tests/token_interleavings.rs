//! A property: however calls, expiries, failures, rejections and cancellations interleave, a user gets tokens that were
//! minted for them, their backend and this time, and the issuer is never asked twice at once for one key.
#![cfg(feature = "token-exchange")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::SystemTime,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use serde_json::json;
use support::{
    authenticated::Authenticated,
    token_stack::{at, clock, seconds, user_until},
};
use tokio::task::yield_now;
use tower::service_fn;
use tower_identity::{
    AuthErrorKind, Clock, CredentialCache, Identity, ManualClock, TokenEndpoint, TokenExchange,
    strategy::{IssuedToken, Rejection},
};

const USERS: usize = 3;
const BACKENDS: usize = 2;
const LIFETIME: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// A call that is polled so often and then given up, or waits for its answer.
    Call {
        user: usize,
        backend: usize,
        polls: Option<usize>,
    },
    /// The backend rejects what was sent with the last call.
    Reject {
        user: usize,
        backend: usize,
    },
    Advance(u64),
    /// The issuer answers one request with this error.
    Fail(&'static str),
    Let(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (users, backends) = (0..USERS, 0..BACKENDS);
    prop_oneof![
        6 => (users.clone(), backends.clone(), proptest::option::of(0..4_usize))
            .prop_map(|(user, backend, polls)| Step::Call { user, backend, polls }),
        1 => (users, backends).prop_map(|(user, backend)| Step::Reject { user, backend }),
        2 => (0..1500_u64).prop_map(Step::Advance),
        1 => prop_oneof![Just("invalid_grant"), Just("server_error")].prop_map(Step::Fail),
        3 => (0..20_usize).prop_map(Step::Let),
    ]
}

type Key = (String, String);

struct Minted {
    key: Key,
    asked_at: SystemTime,
    answered_at: SystemTime,
}

/// An issuer in this process: it takes some turns, fails when told to, and notes when it was asked for what.
#[derive(Default)]
struct Issuer {
    under_way: BTreeSet<Key>,
    failures: VecDeque<&'static str>,
    minted: BTreeMap<String, Minted>,
    asked_twice_at_once: Option<Key>,
}

async fn answer(
    issuer: Arc<Mutex<Issuer>>,
    clock: Arc<ManualClock>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let asked_at = clock.now();
    let key = (
        form["subject_token"]
            .strip_prefix("token-of-")
            .unwrap()
            .to_owned(),
        form["audience"].clone(),
    );
    {
        let mut issuer = issuer.lock().unwrap();
        if !issuer.under_way.insert(key.clone()) {
            issuer.asked_twice_at_once = Some(key.clone());
        }
    }
    for _ in 0..3 {
        yield_now().await;
    }
    let mut issuer = issuer.lock().unwrap();
    issuer.under_way.remove(&key);
    let (status, body) = match issuer.failures.pop_front() {
        Some(code) => (400, json!({ "error": code })),
        None => {
            let token = format!("minted-{}", issuer.minted.len());
            let minted = Minted {
                key,
                asked_at,
                answered_at: clock.now(),
            };
            issuer.minted.insert(token.clone(), minted);
            let answer = json!({
                "access_token": token,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": LIFETIME,
            });
            (200, answer)
        }
    };
    let response = Response::builder().status(status);
    Ok(response.body(body.to_string().into()).unwrap())
}

fn subject_end(user: usize) -> u64 {
    3000 * (user as u64 + 1)
}

fn identity(user: usize) -> Identity {
    // All have the same subject: what tells them apart is the token alone.
    user_until("user", &format!("token-of-{user}"), subject_end(user))
}

fn request(user: usize) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(identity(user));
    request
}

async fn run(steps: Vec<Step>) {
    let clock = clock();
    let issuer = Arc::new(Mutex::new(Issuer::default()));
    let token_client = service_fn({
        let (issuer, clock) = (issuer.clone(), clock.clone());
        move |request| answer(issuer.clone(), clock.clone(), request)
    });
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", token_client);
    let endpoint = endpoint.build().unwrap();
    let cache = CredentialCache::<IssuedToken>::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let strategies: [_; BACKENDS] = std::array::from_fn(|backend| {
        TokenExchange::builder(endpoint.clone())
            .audience(&format!("backend-{backend}"))
            .cache(cache.clone())
            .build()
            .unwrap()
    });
    let mut calls = Vec::new();
    let sent = Arc::new(Mutex::new(BTreeMap::new()));
    for step in steps {
        match step {
            Step::Call {
                user,
                backend,
                polls,
            } => {
                let (strategy, issuer) = (strategies[backend].clone(), issuer.clone());
                let sent = sent.clone();
                let started = clock.now();
                calls.push(tokio::spawn(async move {
                    let authenticating = strategy.authenticated(request(user));
                    let Some(answer) = poll_at_most(polls, authenticating).await else {
                        return;
                    };
                    match answer {
                        Ok(request) => {
                            let value = request.headers()["authorization"].to_str().unwrap();
                            let issuer = issuer.lock().unwrap();
                            let minted = &issuer.minted[value.strip_prefix("Bearer ").unwrap()];
                            assert_eq!(
                                minted.key,
                                (user.to_string(), format!("backend-{backend}"))
                            );
                            let is_good = minted.asked_at + seconds(LIFETIME) > started;
                            assert!(is_good || minted.answered_at >= started, "it had expired");
                            assert!(at(subject_end(user)) > started, "its subject had expired");
                            let (request, ()) = request.into_parts();
                            sent.lock().unwrap().insert((user, backend), request);
                        }
                        Err(error) => assert!(matches!(
                            error.kind(),
                            AuthErrorKind::Rejected
                                | AuthErrorKind::Unavailable
                                | AuthErrorKind::Expired
                        )),
                    }
                }));
            }
            Step::Reject { user, backend } => {
                let last = sent.lock().unwrap().get(&(user, backend)).cloned();
                if let Some(last) = last {
                    reject(&strategies[backend], &last);
                }
            }
            Step::Advance(by) => clock.advance(seconds(by)),
            Step::Fail(code) => issuer.lock().unwrap().failures.push_back(code),
            Step::Let(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(issuer.lock().unwrap().asked_twice_at_once, None);
}

fn reject(strategy: &TokenExchange, sent: &Parts) -> Rejection {
    let response = Response::builder().status(401).body(()).unwrap();
    let (response, ()) = response.into_parts();
    tower_identity::Strategy::<()>::rejected(strategy, sent, &response)
}

async fn poll_at_most<F: Future>(polls: Option<usize>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        match &mut left {
            Some(0) => return Poll::Ready(None),
            Some(left) => {
                *left -= 1;
                cx.waker().wake_by_ref();
            }
            None => {}
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_user_gets_anothers_token_and_no_key_is_asked_for_twice_at_once(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps));
    }
}
