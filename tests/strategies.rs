//! What each strategy puts onto a request, and when it refuses.

mod support;

use std::{
    env,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, Request};
use support::{
    authenticated::Authenticated,
    recording::{identity, request, upstream_token},
};
use tower_identity::{
    AuthErrorKind, HeaderInjection, HealthCheck, Identity, ManualClock, Unauthenticated,
    UpstreamInject, strategy_fn,
};

const NOON: SystemTime = SystemTime::UNIX_EPOCH;

fn expiring(after: Duration) -> Identity {
    let token = upstream_token("gho_1").with_expires_at(NOON + after);
    Identity::builder("user-1")
        .upstream("github", token)
        .build()
        .unwrap()
}

#[tokio::test]
async fn upstream_inject_sends_the_token_of_its_provider_and_no_other() {
    let identity = Identity::builder("user-1")
        .upstream("github", upstream_token("gho_1"))
        .upstream("gitlab", upstream_token("glpat-1"))
        .build()
        .unwrap();
    let strategy = UpstreamInject::new("gitlab").unwrap();
    let request = strategy
        .authenticated(request(Method::POST, identity))
        .await
        .unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer glpat-1");
}

#[tokio::test]
async fn upstream_inject_says_whether_identity_token_or_time_is_missing() {
    let strategy = UpstreamInject::new("github")
        .unwrap()
        .clock(Arc::new(ManualClock::new(NOON)));
    let without_token = Identity::builder("user-1")
        .upstream("gitlab", upstream_token("glpat-1"))
        .build()
        .unwrap();
    for (identity, kind) in [
        (None, AuthErrorKind::MissingIdentity),
        (Some(without_token), AuthErrorKind::MissingToken),
        (Some(expiring(Duration::ZERO)), AuthErrorKind::Expired),
    ] {
        let error = strategy
            .authenticated(request(Method::POST, identity))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.provider(), Some("github"));
        let names_others = error.to_string().contains("gitlab");
        assert_eq!(names_others, kind == AuthErrorKind::MissingToken, "{error}");
    }
}

#[tokio::test]
async fn upstream_inject_says_that_a_user_has_no_upstream_token_at_all() {
    let without_tokens = Identity::builder("user-1").build().unwrap();
    let error = UpstreamInject::new("github")
        .unwrap()
        .authenticated(request(Method::POST, without_tokens))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::MissingToken);
    let text = error.to_string();
    assert!(text.contains("of this provider or of any other"), "{text}");
}

#[tokio::test]
async fn upstream_inject_sends_a_token_to_the_last_moment_and_not_beyond() {
    let clock = Arc::new(ManualClock::new(NOON));
    let strategy = UpstreamInject::new("github").unwrap().clock(clock.clone());
    let user = expiring(Duration::from_secs(3600));

    clock.advance(Duration::from_secs(3600) - Duration::from_nanos(1));
    assert!(
        strategy
            .authenticated(request(Method::POST, user.clone()))
            .await
            .is_ok()
    );
    clock.advance(Duration::from_nanos(1));
    let error = strategy
        .authenticated(request(Method::POST, user))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
}

#[tokio::test]
async fn upstream_inject_sends_a_token_whose_end_is_not_known() {
    let strategy = UpstreamInject::new("github").unwrap();
    let request = strategy
        .authenticated(request(Method::POST, identity("user-1", "gho_1")))
        .await
        .unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer gho_1");
}

#[test]
fn upstream_inject_needs_a_providers_name() {
    for provider in ["", " "] {
        let error = UpstreamInject::new(provider).unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "provider");
    }
}

#[tokio::test]
async fn header_injection_needs_no_user() {
    let strategy = HeaderInjection::new("X-Api-Key", "k 1").unwrap();
    let mut probe = request(Method::GET, None);
    probe.extensions_mut().insert(HealthCheck);
    for request in [request(Method::POST, None), probe] {
        let request = strategy.authenticated(request).await.unwrap();
        assert_eq!(request.headers()["x-api-key"], "k 1");
        assert!(request.headers()["x-api-key"].is_sensitive());
    }
}

#[tokio::test]
async fn header_injection_reads_the_environment_at_construction() {
    // Cargo sets this one for every test.
    let strategy = HeaderInjection::from_env("x-version", "CARGO_PKG_VERSION").unwrap();
    let request = strategy
        .authenticated(request(Method::GET, None))
        .await
        .unwrap();
    assert_eq!(request.headers()["x-version"], env!("CARGO_PKG_VERSION"));

    let error = HeaderInjection::from_env("x-api-key", "TOWER_IDENTITY_NOT_SET").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot build `HeaderInjection`: `variable` names an environment variable `TOWER_IDENTITY_NOT_SET` that is not \
         set"
    );
    let misplaced = HeaderInjection::from_env("x-api-key", "s3cr3t-Key").unwrap_err();
    assert_eq!(
        misplaced.to_string(),
        "cannot build `HeaderInjection`: `variable` names an environment variable that is not set"
    );
}

#[test]
fn f56_a_placeholder_in_an_environment_variable_is_no_secret() {
    const NAME: &str = "f56_a_placeholder_in_an_environment_variable_is_no_secret";
    const VARIABLE: &str = "TOWER_IDENTITY_TEST_KEY";

    if env::var_os(VARIABLE).is_some() {
        // This is the process that was started below.
        let built = HeaderInjection::from_env("x-api-key", VARIABLE);
        let fault = built.err().map(|error| error.to_string());
        println!("fault: {}", fault.unwrap_or_default());
        return;
    }
    let fault_of = |value: &str| {
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", NAME, "--nocapture"]);
        let output = test.env(VARIABLE, value).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, fault) = text.split_once("fault: ").unwrap();
        fault.lines().next().unwrap().to_owned()
    };
    for value in ["${TOKEN}", "Bearer {{ hush }}", "${{ secrets.HUSH }}"] {
        let fault = fault_of(value);
        assert!(fault.contains("placeholder"), "{value}: {fault}");
        assert!(fault.contains("`variable`") && !fault.to_lowercase().contains("hush"));
    }
    assert!(fault_of("hush\n").contains("line break"));
    assert_eq!(fault_of("Bearer $hush"), "");
}

#[tokio::test]
async fn unauthenticated_leaves_a_request_as_it_is() {
    let mut plain = request(Method::POST, identity("user-1", "gho_1"));
    plain.headers_mut().insert(
        "authorization",
        HeaderValue::from_static("Bearer callers-own"),
    );
    let request = Unauthenticated.authenticated(plain).await.unwrap();
    assert_eq!(request.headers().len(), 1);
    assert_eq!(request.headers()["authorization"], "Bearer callers-own");
}

#[tokio::test]
async fn a_closure_is_a_strategy_that_may_wait_and_hold_state() {
    let tenant = HeaderValue::from_static("blue");
    let strategy = strategy_fn(move |mut request: Request<String>| {
        let tenant = tenant.clone();
        async move {
            tokio::task::yield_now().await;
            request.headers_mut().insert("x-tenant", tenant);
            Ok(request)
        }
    });
    let request = strategy
        .authenticated(request(Method::POST, None))
        .await
        .unwrap();
    assert_eq!(request.headers()["x-tenant"], "blue");
}
