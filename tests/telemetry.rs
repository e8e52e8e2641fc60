//! What can be watched: each authentication has a span, and is counted under the names that the docs list.
#![cfg(all(feature = "metrics", feature = "token-exchange"))]

mod support;

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use futures_util::future::join;
use http::Method;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use support::{
    issuer::Issuer,
    recording::{RecordingService, identity, request},
    token_stack::{Backend, endpoint, http_client, send, user},
};
use tower::{Layer, ServiceBuilder, ServiceExt, retry::RetryLayer};
use tower_identity::{
    AuthErrorKind, AuthLayer, HeaderInjection, IdentityLayer, Origin, Reauthenticate, Strategy,
    TokenExchange, Unauthenticated, UpstreamInject,
    credential::cache::{CacheScope, CredentialCache, Obtained},
    strategy_fn,
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

async fn issuer() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    issuer.know("token-of-bob", "bob");
    issuer
}

fn exchange(issuer: &Issuer) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer)).build().unwrap()
}

/// All that was counted so far, a line for each name and its labels.
fn counted(recorder: &DebuggingRecorder) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let key = key.key();
        let mut line = key.name().to_owned();
        for label in key.labels() {
            write!(line, " {}={}", label.key(), label.value()).unwrap();
        }
        match value {
            DebugValue::Counter(count) => write!(line, ": {count}").unwrap(),
            DebugValue::Histogram(values) => write!(line, ": {} times", values.len()).unwrap(),
            DebugValue::Gauge(_) => panic!("{line} is a gauge"),
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn what_happens_is_counted_under_the_documented_names() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy: Arc<dyn Strategy<_>> = Arc::new(exchange(&issuer));
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("alice", "token-of-alice")))
        .layer(RetryLayer::new(Reauthenticate::new(strategy.clone())))
        .layer(AuthLayer::new(backend.server.origin(), strategy))
        .service(http_client());
    let send = |identity| send(&client, backend.request(identity));

    send(Some(user("alice", "token-of-alice"))).await.unwrap();
    send(None).await.unwrap();
    let bob = || send(Some(user("bob", "token-of-bob")));
    let (first, second) = join(bob(), bob()).await;
    first.and(second).unwrap();
    for _ in 0..2 {
        let refused = send(Some(user("mallory", "token-of-mallory"))).await;
        assert_eq!(refused.unwrap_err().kind(), AuthErrorKind::Rejected);
    }
    backend.reject("exchanged-for-alice-any-1");
    send(Some(user("alice", "token-of-alice"))).await.unwrap();

    let origin = backend.server.origin();
    assert_eq!(
        counted(&recorder),
        [
            "tower_identity_cache_lookups_total cache=coalesced: 1".to_owned(),
            "tower_identity_cache_lookups_total cache=hit: 2".to_owned(),
            "tower_identity_cache_lookups_total cache=miss: 4".to_owned(),
            "tower_identity_cache_lookups_total cache=refused: 1".to_owned(),
            "tower_identity_fallbacks_total: 1".to_owned(),
            "tower_identity_forced_refreshes_total strategy=token_exchange: 1".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=ok: 3 times".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=rejected: 1 times"
                .to_owned(),
            format!(
                "tower_identity_requests_total backend={origin} strategy=token_exchange outcome=ok: 6"
            ),
            format!(
                "tower_identity_requests_total backend={origin} strategy=token_exchange outcome=rejected: 2"
            ),
        ]
    );
}

#[tokio::test]
async fn a_request_that_is_refused_is_counted_by_the_kind_of_its_error() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let inject = UpstreamInject::new("github").unwrap();
    let client = AuthLayer::new(origin, inject).layer(RecordingService::new());
    let elsewhere = support::recording::request_to("https://evil.example.com/", Method::GET, None);
    for refused in [request(Method::GET, None), elsewhere] {
        client.clone().oneshot(refused).await.unwrap_err();
    }
    assert_eq!(
        counted(&recorder),
        [
            "tower_identity_requests_total backend=https://mcp.example.com strategy=upstream_inject \
             outcome=missing_identity: 1",
            "tower_identity_requests_total backend=https://mcp.example.com strategy=upstream_inject \
             outcome=wrong_origin: 1",
        ]
    );
}

#[test]
fn a_strategy_says_what_kind_it_is_and_one_of_your_own_is_custom() {
    fn name(strategy: impl Strategy<String> + 'static) -> &'static str {
        let shared: Arc<dyn Strategy<String>> = Arc::new(strategy);
        shared.name()
    }
    assert_eq!(name(Unauthenticated), "unauthenticated");
    let injection = HeaderInjection::new("x-api-key", "key").unwrap();
    assert_eq!(name(injection), "header_injection");
    assert_eq!(name(strategy_fn(async |request| Ok(request))), "custom");
}

#[tokio::test]
async fn each_authentication_has_one_span_and_no_token_is_in_it() {
    let spans = ClosedSpans::default();
    let _watching =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let client = backend.client(exchange(&issuer));
    let send = |identity| send(&client, backend.request(identity));

    let alice = || Some(user("alice", "token-of-alice"));
    send(alice()).await.unwrap();
    send(alice()).await.unwrap();
    send(Some(user("mallory", "token-of-mallory")))
        .await
        .unwrap_err();
    send(None).await.unwrap_err();

    let origin = backend.server.origin();
    assert_eq!(
        spans.named("authenticate"),
        [
            format!("backend={origin} cache=miss outcome=ok strategy=token_exchange"),
            format!("backend={origin} cache=hit outcome=ok strategy=token_exchange"),
            format!("backend={origin} cache=miss outcome=rejected strategy=token_exchange"),
            format!("backend={origin} outcome=missing_identity strategy=token_exchange"),
        ]
    );
}

#[tokio::test]
async fn the_span_has_ended_before_the_request_is_sent() {
    let spans = ClosedSpans::default();
    let _watching =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let client = AuthLayer::new(origin, UpstreamInject::new("github").unwrap()).layer(
        tower::service_fn(move |_| {
            let ended = spans.named("authenticate").len();
            async move { Ok::<_, tower::BoxError>(ended) }
        }),
    );
    let request = request(Method::POST, identity("user-1", "gho_1"));
    assert_eq!(client.oneshot(request).await.unwrap(), 1);
}

#[tokio::test]
async fn a_cache_writes_on_no_span_of_its_callers() {
    let spans = ClosedSpans::default();
    let _watching =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let cache = CredentialCache::builder().build().unwrap();
    let key = CacheScope::new("numbers").key_for_client();
    let mine = tracing::info_span!("mine", cache = "my own");
    let obtaining = mine.in_scope(|| cache.obtain(key, None, async || Ok(Obtained::new(7))));
    assert_eq!(obtaining.await.unwrap(), 7);
    drop(mine);
    assert_eq!(spans.named("mine"), ["cache=my own"]);
}

/// Keeps the fields of each span that has ended.
#[derive(Clone, Default)]
struct ClosedSpans(Arc<Mutex<Vec<(&'static str, String)>>>);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl ClosedSpans {
    fn named(&self, name: &str) -> Vec<String> {
        let spans = self.0.lock().unwrap();
        let named = spans.iter().filter(|(of, _)| *of == name);
        named.map(|(_, fields)| fields.clone()).collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for ClosedSpans {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let fields = span.extensions_mut().remove::<Fields>().unwrap();
        let fields = fields
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let fields = fields.collect::<Vec<_>>().join(" ");
        self.0.lock().unwrap().push((span.name(), fields));
    }
}
