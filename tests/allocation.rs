//! What the hot path allocates: nothing. This is a promise, so it is a test; how long it takes is a bench.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{Method, Request, Response};
use support::recording::{identity, request};
use tower::{Service, ServiceBuilder};
use tower_identity::{
    AuthLayer, HeaderForwardLayer, Identity, IdentityLayer, Origin, Placement, Strategy,
    UpstreamInject,
};

/// Hands the request back, so that its drop is not counted.
#[derive(Clone)]
struct Mirror;

impl Service<Request<String>> for Mirror {
    type Response = Response<Request<String>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        ready(Ok(Response::new(request)))
    }
}

/// How many allocations one call makes, when everything that is made once has been made.
fn allocations<S>(mut service: S, mut prepare: impl FnMut() -> Request<String>) -> u64
where
    S: Service<Request<String>, Response = Response<Request<String>>>,
{
    let mut call = |request| service.call(request).now_or_never().unwrap().ok().unwrap();
    call(prepare());
    let request = prepare();
    let mut answered = None;
    let counted = allocation_counter::measure(|| answered = Some(call(request)));
    let request = answered.unwrap().into_body();
    assert_eq!(request.headers()["authorization"], "Bearer gho_1");
    counted.count_total
}

fn stack<A: Strategy<String> + Clone>(
    identity: IdentityLayer,
    strategy: A,
) -> impl Service<Request<String>, Response = Response<Request<String>>> {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    ServiceBuilder::new()
        .layer(identity)
        .layer(AuthLayer::new(origin, strategy))
        .service(Mirror)
}

/// A request as a client makes it: it has a header, so the map of headers is there.
fn with_header(identity: Option<Identity>) -> Request<String> {
    let mut request = request(Method::POST, identity);
    request
        .headers_mut()
        .insert("accept", "application/json".parse().unwrap());
    request
}

#[test]
fn a_request_with_an_identity_costs_no_allocation() {
    let fresh = identity("user-1", "gho_1");
    let inject = UpstreamInject::new("github").unwrap();
    let shared: Arc<dyn Strategy<String>> = Arc::new(inject.clone());
    let prepare = || with_header(Some(fresh.clone()));
    let layer = || IdentityLayer::new(identity("user-1", "stale"));
    assert_eq!(allocations(stack(layer(), inject.clone()), prepare), 0);
    assert_eq!(allocations(stack(layer(), shared), prepare), 0);
    assert_eq!(
        allocations(stack(layer().follow_requests(), inject), prepare),
        0
    );
}

/// The value after `Bearer ` is ready-made. Any other takes memory that is wiped, and its owner.
#[test]
fn a_token_in_another_header_costs_an_allocation_only_where_its_value_is_another() {
    let fresh = identity("user-1", "gho_1");
    for (header, prefix, value, allowed) in [
        ("x-upstream-authorization", "Bearer ", "Bearer gho_1", 0),
        ("authorization", "Bearer ", "Bearer gho_1", 0),
        ("authorization", "token ", "token gho_1", 2),
        ("x-api-key", "", "gho_1", 2),
    ] {
        let placement = Placement::header(header).unwrap().prefix(prefix).unwrap();
        let inject = UpstreamInject::new("github").unwrap().placement(placement);
        let mut service = stack(IdentityLayer::new(None), inject);
        let mut call = |request| service.call(request).now_or_never().unwrap().ok().unwrap();
        let prepare = || {
            let mut request = with_header(Some(fresh.clone()));
            request.headers_mut().reserve(8);
            request
        };
        call(prepare());
        let request = prepare();
        let mut answered = None;
        let counted = allocation_counter::measure(|| answered = Some(call(request)));
        assert_eq!(answered.unwrap().into_body().headers()[header], value);
        assert_eq!(counted.count_total, allowed, "{header}: {prefix}");
    }
}

#[test]
fn a_fallback_costs_what_the_extensions_cost_and_nothing_else() {
    let session = identity("user-1", "gho_1");
    let mut by_hand = with_header(None);
    let extensions = allocation_counter::measure(|| {
        by_hand.extensions_mut().insert(session.clone());
    });
    assert!(extensions.count_total > 0);

    let inject = UpstreamInject::new("github").unwrap();
    for layer in [
        IdentityLayer::new(session.clone()),
        IdentityLayer::new(session.clone()).follow_requests(),
    ] {
        assert_eq!(
            allocations(stack(layer, inject.clone()), || with_header(None)),
            extensions.count_total
        );
    }
}

#[test]
fn forwarded_headers_cost_no_allocation_where_the_map_has_room() {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let forward = HeaderForwardLayer::builder(origin.clone())
        .header("x-api-version", "2")
        .build()
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(forward)
        .layer(AuthLayer::new(
            origin,
            UpstreamInject::new("github").unwrap(),
        ))
        .service(Mirror);
    let fresh = identity("user-1", "gho_1");
    let prepare = || {
        let mut request = with_header(Some(fresh.clone()));
        request.headers_mut().reserve(8);
        request
    };
    assert_eq!(allocations(client, prepare), 0);
}

#[cfg(feature = "incoming")]
#[test]
fn a_remembered_token_costs_what_the_extensions_cost_and_nothing_else() {
    use bytes::Bytes;
    use http::{HeaderValue, header::AUTHORIZATION};
    use http_body_util::Full;
    use serde_json::json;
    use support::identity_provider::{AUDIENCE, P256, some_day};
    use tower::{Layer, service_fn};
    use tower_identity::{KeySet, ManualClock, TokenValidator, TokenValidatorLayer};

    let keys = json!({ "keys": [P256.public()] }).to_string();
    let claims = json!({ "iss": "issuer", "aud": AUDIENCE, "sub": "alice", "exp": 2_000_000_600 });
    let token = P256.sign(&P256.header(), &claims);
    let keys = KeySet::from_json(keys).unwrap();
    let validator = TokenValidator::builder_with_keys("issuer", keys)
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .cache_tokens(100)
        .build()
        .unwrap();
    let gateway = service_fn(async |request: Request<()>| {
        assert_eq!(
            request.extensions().get::<Identity>().unwrap().subject(),
            "alice"
        );
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut service = TokenValidatorLayer::new(validator).layer(gateway);
    let bearing = || {
        let mut request = Request::new(());
        let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        request
    };
    let mut call = |request| service.call(request).now_or_never().unwrap().unwrap();
    assert!(call(bearing()).status().is_success());

    let (mut by_hand, request, user) = (bearing(), bearing(), identity("user-1", "t"));
    let extensions = allocation_counter::measure(|| {
        by_hand.extensions_mut().insert(user);
    });
    let counted = allocation_counter::measure(|| drop(call(request)));
    assert_eq!(counted.count_total, extensions.count_total);
}

#[cfg(feature = "token-exchange")]
mod exchanged {
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::runtime::Runtime;
    use tower::service_fn;
    use tower_identity::{
        AccessToken, Actor, Subject, TokenEndpoint, TokenExchange, strategy::TokenExchangeBuilder,
    };

    use super::{support::authenticated::Authenticated, *};

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    }

    /// A strategy whose issuer always issues `token`.
    fn exchange_for(token: &str) -> TokenExchangeBuilder {
        let answer = format!(
            r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600,
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
        );
        let answer = Bytes::from(answer);
        let issuer = service_fn(move |_: Request<Full<Bytes>>| {
            ready(Ok::<_, Infallible>(Response::new(Full::new(
                answer.clone(),
            ))))
        });
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer);
        TokenExchange::builder(endpoint.build().unwrap()).audience("mcp-backend")
    }

    async fn obtain(strategy: &TokenExchange, request: Request<String>) {
        drop(strategy.authenticated(request).await.unwrap());
    }

    #[test]
    fn an_exchanged_token_that_is_at_hand_costs_no_allocation() {
        assert_that_tokens_at_hand_cost_no_allocation();
    }

    pub(super) fn assert_that_tokens_at_hand_cost_no_allocation() {
        let claims = serde_json::json!({ "exp": 4_102_444_800_u64 });
        let user = Identity::builder("user-1")
            .token(AccessToken::new("callers-own").unwrap())
            .claims(claims.as_object().unwrap().clone())
            .upstream("github", support::recording::upstream_token("gho_0"))
            .build()
            .unwrap();
        let prepare = || with_header(Some(user.clone()));
        let builder = || exchange_for("gho_1");
        for builder in [
            builder(),
            builder().subject(Subject::upstream("github")),
            builder().actor(Actor::user(Subject::upstream("github"))),
        ] {
            let strategy = builder.build().unwrap();
            runtime().block_on(obtain(&strategy, prepare()));
            let layer = || IdentityLayer::new(identity("user-1", "stale"));
            let shared: Arc<dyn Strategy<String>> = Arc::new(strategy.clone());
            assert_eq!(allocations(stack(layer(), strategy), prepare), 0);
            assert_eq!(allocations(stack(layer(), shared), prepare), 0);
        }
    }

    #[test]
    fn a_kept_token_takes_at_most_512_bytes_beside_its_text() {
        const USERS: usize = 10_000;
        const LENGTH: usize = 1024;

        let strategy = exchange_for(&"t".repeat(LENGTH)).build().unwrap();
        let user = |number: usize| {
            let token = AccessToken::new(format!("token-of-{number}")).unwrap();
            Identity::builder("user-1").token(token).build().unwrap()
        };
        let runtime = runtime();
        runtime.block_on(obtain(&strategy, with_header(Some(user(0)))));
        let filled = allocation_counter::measure(|| {
            runtime.block_on(async {
                for number in 1..=USERS {
                    obtain(&strategy, with_header(Some(user(number)))).await;
                }
            });
        });
        let per_entry = filled.bytes_current / USERS as i64;
        assert!(per_entry > LENGTH as i64, "{per_entry}: nothing was kept");
        assert!(per_entry <= (LENGTH + 512) as i64, "{per_entry}");
    }
}

/// The signature by the library, the claims, and the JWT.
#[cfg(feature = "dpop")]
#[test]
fn a_cached_token_that_is_bound_to_a_key_costs_the_allocations_of_its_proof_and_no_others() {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    use http_body_util::Full;
    use support::{authenticated::Authenticated, dpop::Asked};
    use tower_identity::{
        AccessToken, Secret, TokenExchange,
        oauth::{DpopKey, DpopKeys},
    };

    let user = Identity::builder("user-1")
        .token(AccessToken::new("callers-own").unwrap())
        .build()
        .unwrap();
    let prepare = || {
        let mut request = with_header(Some(user.clone()));
        request.headers_mut().reserve(8);
        request
    };
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let sign = || pair.sign(&SystemRandom::new(), &[b'a'; 480]).unwrap();
    sign();
    // The library's number is not always the same.
    let signatures = (0..100).map(|_| {
        let counted = allocation_counter::measure(|| {
            let _ = sign();
        });
        counted.count_total
    });
    let signature = signatures.max().unwrap();
    let per_user = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
    for keys in [
        DpopKeys::from(DpopKey::generate().unwrap()),
        DpopKeys::per_user(&per_user).unwrap(),
    ] {
        let asked = Asked::default();
        let answer = serde_json::json!({ "access_token": "bound", "token_type": "DPoP",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
        let response = Response::builder().header("content-type", "application/json");
        asked.answer(response.body(Full::from(answer.to_string())).unwrap());
        let endpoint = asked.endpoint(support::dpop::URL).dpop(keys).build();
        let strategy = TokenExchange::builder(endpoint.unwrap()).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async { drop(strategy.authenticated(prepare()).await.unwrap()) });
        let mut service = stack(IdentityLayer::new(None), strategy);
        let mut call = |request| service.call(request).now_or_never().unwrap().ok().unwrap();
        call(prepare());
        let request = prepare();
        let mut answered = None;
        let counted = allocation_counter::measure(|| answered = Some(call(request)));
        let request = answered.unwrap().into_body();
        assert_eq!(request.headers()["authorization"], "DPoP bound");
        assert!(request.headers().contains_key("dpop"));
        assert!(
            counted.count_total <= signature + 2,
            "{} with the {signature} of a signature",
            counted.count_total
        );
    }
}

#[cfg(all(feature = "metrics", feature = "token-exchange"))]
#[test]
fn spans_and_metrics_cost_no_allocation() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let subscriber = Arc::new(last_span::LastSpan::default());
    let _watching = tracing::subscriber::set_default(subscriber.clone());
    for _ in 0..2 {
        // What was reached for the first time by another test, which does not listen, is switched off.
        tracing::callsite::rebuild_interest_cache();
        a_request_with_an_identity_costs_no_allocation();
        exchanged::assert_that_tokens_at_hand_cost_no_allocation();
    }

    let counted = recorder.snapshotter().snapshot().into_vec();
    let names: Vec<_> = counted.iter().map(|(key, ..)| key.key().name()).collect();
    assert!(
        names.contains(&"tower_identity_requests_total"),
        "{names:?}"
    );
    assert!(
        names.contains(&"tower_identity_cache_lookups_total"),
        "{names:?}"
    );
    assert!(
        subscriber
            .recorded
            .load(std::sync::atomic::Ordering::Relaxed)
            > 0
    );
}

#[cfg(all(feature = "metrics", feature = "token-exchange"))]
mod last_span {
    use std::sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    };

    use tracing::{Event, Metadata, Subscriber, span};

    /// A subscriber that allocates nothing, and knows the last span only.
    #[derive(Default)]
    pub(crate) struct LastSpan {
        span: OnceLock<&'static Metadata<'static>>,
        pub(crate) recorded: AtomicUsize,
    }

    impl Subscriber for LastSpan {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("tower_identity")
        }

        fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
            self.span.get_or_init(|| span.metadata());
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {
            self.recorded.fetch_add(1, Ordering::Relaxed);
        }

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}

        fn current_span(&self) -> tracing_core::span::Current {
            match self.span.get() {
                Some(metadata) => tracing_core::span::Current::new(span::Id::from_u64(1), metadata),
                None => tracing_core::span::Current::none(),
            }
        }
    }
}
