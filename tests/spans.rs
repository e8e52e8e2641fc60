//! Each authentication has a span. Every test here listens: a callsite that is first reached on a thread without a
//! subscriber may be switched off for all.
#![cfg(feature = "token-exchange")]

mod support;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use http::{Method, Response};
use support::{
    issuer::Issuer,
    recording::{identity, request},
    token_stack::{Backend, endpoint, send, user},
};
use tower::{Layer, ServiceExt};
use tower_identity::{
    AuthLayer, CredentialCache, Origin, TokenExchange, UpstreamInject,
    credential::{CacheScope, Obtained},
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

async fn issuer() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    issuer
}

fn exchange(issuer: &Issuer) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer)).build().unwrap()
}

#[tokio::test]
async fn each_authentication_has_one_span_and_no_token_is_in_it() {
    let (spans, _watching) = ClosedSpans::watch();
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
    let (spans, _watching) = ClosedSpans::watch();
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let client = AuthLayer::new(origin, UpstreamInject::new("github").unwrap()).layer(
        tower::service_fn(move |_| {
            let ended = spans.named("authenticate").len();
            async move { Ok::<_, tower::BoxError>(Response::new(ended)) }
        }),
    );
    let request = request(Method::POST, identity("user-1", "gho_1"));
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.into_body(), 1);
}

#[tokio::test]
async fn a_cache_writes_on_no_span_of_its_callers() {
    let (spans, _watching) = ClosedSpans::watch();
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
    /// Watches this thread, from now on.
    fn watch() -> (Self, DefaultGuard) {
        let spans = Self::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        (spans, tracing::subscriber::set_default(subscriber))
    }

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
