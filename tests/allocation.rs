//! What the hot path allocates: nothing. This is a promise, so it is a test; how long it takes is a bench.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{Method, Request};
use support::recording::{identity, request};
use tower::{Service, ServiceBuilder};
use tower_identity::{
    AuthLayer, HeaderForwardLayer, Identity, IdentityLayer, Origin, Strategy, UpstreamInject,
};

/// Hands the request back, so that its drop is not counted.
#[derive(Clone)]
struct Mirror;

impl Service<Request<String>> for Mirror {
    type Response = Request<String>;
    type Error = Infallible;
    type Future = Ready<Result<Request<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        ready(Ok(request))
    }
}

/// How many allocations one call makes, when everything that is made once has been made.
fn allocations<S>(mut service: S, mut prepare: impl FnMut() -> Request<String>) -> u64
where
    S: Service<Request<String>, Response = Request<String>>,
{
    let mut call = |request| service.call(request).now_or_never().unwrap().ok().unwrap();
    call(prepare());
    let request = prepare();
    let mut answered = None;
    let counted = allocation_counter::measure(|| answered = Some(call(request)));
    assert_eq!(answered.unwrap().headers()["authorization"], "Bearer gho_1");
    counted.count_total
}

fn stack<A: Strategy<String> + Clone>(
    identity: IdentityLayer,
    strategy: A,
) -> impl Service<Request<String>, Response = Request<String>> {
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

#[cfg(feature = "token-exchange")]
#[test]
fn an_exchanged_token_that_is_at_hand_costs_no_allocation() {
    assert_that_tokens_at_hand_cost_no_allocation();
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
        assert_that_tokens_at_hand_cost_no_allocation();
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

#[cfg(feature = "token-exchange")]
fn assert_that_tokens_at_hand_cost_no_allocation() {
    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use tower::service_fn;
    use tower_identity::{AccessToken, Actor, Subject, TokenEndpoint, TokenExchange};

    const ANSWER: &str = r#"{"access_token":"gho_1","token_type":"Bearer","expires_in":3600,
        "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let issuer = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
            ANSWER.as_bytes(),
        ))))
    });
    let builder = || {
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer);
        TokenExchange::builder(endpoint.build().unwrap()).audience("mcp-backend")
    };
    let claims = serde_json::json!({ "exp": 4_102_444_800_u64 });
    let user = Identity::builder("user-1")
        .token(AccessToken::new("callers-own").unwrap())
        .claims(claims.as_object().unwrap().clone())
        .upstream("github", support::recording::upstream_token("gho_0"))
        .build()
        .unwrap();
    let prepare = || with_header(Some(user.clone()));
    for builder in [
        builder(),
        builder().subject(Subject::upstream("github")),
        builder().actor(Actor::user(Subject::upstream("github"))),
    ] {
        let strategy = builder.build().unwrap();
        runtime
            .block_on(async { strategy.authenticate(prepare()).await })
            .unwrap();
        let layer = || IdentityLayer::new(identity("user-1", "stale"));
        let shared: Arc<dyn Strategy<String>> = Arc::new(strategy.clone());
        assert_eq!(allocations(stack(layer(), strategy), prepare), 0);
        assert_eq!(allocations(stack(layer(), shared), prepare), 0);
    }
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
