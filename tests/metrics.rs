//! What happens is counted, under the names that the docs list.
#![cfg(all(feature = "metrics", feature = "token-exchange"))]

mod support;

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join;
use http::{Method, Request};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use support::{
    issuer::Issuer,
    recording::{RecordingService, request, request_to},
    token_stack::{Backend, endpoint, http_client, send, user},
};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, Authenticating, CredentialCache, HeaderInjection,
    IdentityLayer, ManualClock, Origin, Secret, Strategy, TokenExchange, Unauthenticated,
    UpstreamInject,
    credential::{CacheScope, Obtained},
    strategy_fn,
    telemetry::describe_metrics,
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
        .layer(AuthLayer::new(backend.server.origin(), strategy).retry_rejected())
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
            "tower_identity_cache_lookups_total cache=miss: 3".to_owned(),
            "tower_identity_cache_lookups_total cache=refresh: 1".to_owned(),
            "tower_identity_cache_lookups_total cache=refused: 1".to_owned(),
            "tower_identity_fallbacks_total: 1".to_owned(),
            "tower_identity_forced_refreshes_total strategy=token_exchange: 1".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=ok: 2 times".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=rejected: 1 times"
                .to_owned(),
            "tower_identity_refresh_duration_seconds reason=refresh outcome=ok: 1 times".to_owned(),
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
async fn what_a_cache_does_is_counted() {
    const LIFETIME: Duration = Duration::from_secs(3600);
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let cache = CredentialCache::builder()
        .capacity(8)
        .clock(clock.clone())
        .build()
        .unwrap();
    let key = |user: usize| {
        let token = Secret::new(user.to_string()).unwrap();
        CacheScope::new("test").key(token.fingerprint())
    };
    let obtain = |user| {
        cache.obtain(key(user), None, move || async move {
            Ok(Obtained::new(user).expires_in(LIFETIME))
        })
    };

    let (first, second) = join(obtain(0), obtain(0)).await;
    first.and(second).unwrap();
    obtain(0).await.unwrap();
    clock.advance(LIFETIME - Duration::from_secs(60));
    obtain(0).await.unwrap();
    tokio::task::yield_now().await;
    clock.advance(LIFETIME - Duration::from_secs(10));
    obtain(0).await.unwrap();
    let failing = cache.obtain(key(1), None, || async {
        Err(AuthError::new(AuthErrorKind::Rejected, "no"))
    });
    failing.await.unwrap_err();
    obtain(1).await.unwrap_err();
    for user in 2..100 {
        obtain(user).await.unwrap();
    }
    let kept = (0..100).filter(|&user| cache.lookup(&key(user), None).unwrap().is_some());
    let kept = kept.count();

    assert_eq!(
        counted(&recorder),
        [
            format!("tower_identity_cache_evictions_total: {}", 99 - kept),
            "tower_identity_cache_lookups_total cache=coalesced: 1".to_owned(),
            format!("tower_identity_cache_lookups_total cache=hit: {}", 2 + kept),
            "tower_identity_cache_lookups_total cache=miss: 100".to_owned(),
            "tower_identity_cache_lookups_total cache=refresh: 1".to_owned(),
            "tower_identity_cache_lookups_total cache=refused: 1".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=ok: 99 times".to_owned(),
            "tower_identity_refresh_duration_seconds reason=miss outcome=rejected: 1 times"
                .to_owned(),
            "tower_identity_refresh_duration_seconds reason=refresh outcome=ok: 2 times".to_owned(),
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
    let elsewhere = request_to("https://evil.example.com/", Method::GET, None);
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

#[tokio::test]
async fn a_strategy_that_takes_the_place_of_another_is_counted_by_its_own_name() {
    #[derive(Clone, Default)]
    struct Replaced(Arc<AtomicBool>);

    impl Strategy<String> for Replaced {
        fn authenticate(&self, _request: &mut Request<String>) -> Authenticating<String> {
            Authenticating::done()
        }

        fn name(&self) -> &'static str {
            if self.0.load(Relaxed) {
                "second"
            } else {
                "first"
            }
        }
    }

    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let strategy = Replaced::default();
    let client = AuthLayer::new(origin, strategy.clone()).layer(RecordingService::new());
    for is_replaced in [false, true, true] {
        strategy.0.store(is_replaced, Relaxed);
        let request = request(Method::GET, None);
        client.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(
        counted(&recorder),
        [
            "tower_identity_requests_total backend=https://mcp.example.com strategy=first outcome=ok: 1",
            "tower_identity_requests_total backend=https://mcp.example.com strategy=second outcome=ok: 2",
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
async fn each_metric_has_a_unit_and_a_help_text_for_its_recorder() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy: Arc<dyn Strategy<_>> = Arc::new(exchange(&issuer));
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("alice", "token-of-alice")))
        .layer(AuthLayer::new(backend.server.origin(), strategy).retry_rejected())
        .service(http_client());
    send(&client, backend.request(None)).await.unwrap();
    backend.reject("exchanged-for-alice-any-1");
    send(&client, backend.request(None)).await.unwrap();
    let cache = CredentialCache::builder().capacity(1).build().unwrap();
    for user in 0..100 {
        let token = Secret::new(user.to_string()).unwrap();
        let key = CacheScope::new("test").key(token.fingerprint());
        let obtaining = cache.obtain(key, None, || async { Ok(Obtained::new(())) });
        obtaining.await.unwrap();
    }

    let rendered = recorder.handle().render();
    let documented = include_str!("../src/telemetry.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `tower_identity_"));
    let mut count = 0;
    for name in documented.map(|row| row.split('`').next().unwrap()) {
        let help = format!("# HELP tower_identity_{name} ");
        assert!(rendered.contains(&help), "no {help} in:\n{rendered}");
        let kind = format!("# TYPE tower_identity_{name} ");
        assert!(rendered.contains(&kind), "no {kind} in:\n{rendered}");
        count += 1;
    }
    assert_eq!(count, 6);
}
