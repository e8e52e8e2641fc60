//! The upstream tokens that a validated request gets, and what is answered where it gets none.
#![cfg(feature = "incoming")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, StatusCode, header::WWW_AUTHENTICATE};
use serde_json::json;
use support::{
    identity_provider::{AUDIENCE, IdentityProvider, P256, client, some_day},
    recording::RecordingService,
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Clock, Identity, ManualClock, MemoryStore,
    Origin, Secret, TokenValidator, UpstreamInject, UpstreamToken, UpstreamTokenStore,
    UpstreamTokens,
    incoming::TokenValidatorBuilder,
    upstream::{
        Claim, Claimed, Lease, Provider, ProviderTokens, Refreshed, Refresher, Settlement,
        StoredTokens, TokenOwner, UpstreamFuture,
    },
};

const LIFETIME: Duration = Duration::from_secs(3600);

/// Fails as it is told to, by provider; else issues `fresh-…`.
#[derive(Clone, Debug, Default)]
struct Scripted {
    fails: Arc<Mutex<Option<AuthErrorKind>>>,
    /// Each refresh waits for a permit.
    gate: Arc<Mutex<Option<Arc<Semaphore>>>>,
    started: Arc<AtomicUsize>,
}

impl Scripted {
    fn waiting(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }
}

impl Refresher for Scripted {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let fails = *self.fails.lock().unwrap();
        let refresh_token = tokens.refresh_token().unwrap().expose().to_owned();
        let gate = self.gate.lock().unwrap().clone();
        if gate.is_some() {
            self.started.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            match fails {
                Some(kind) => Err(AuthError::new(kind, "as scripted")),
                None => Ok(tokens_of(&format!("fresh-{refresh_token}"), now).into()),
            }
        })
    }
}

fn tokens_of(token: &str, now: SystemTime) -> ProviderTokens {
    let access = UpstreamToken::new(AccessToken::new(token).unwrap());
    ProviderTokens::new(access.with_expires_at(now + LIFETIME), now)
        .with_refresh_token(Secret::new(token).unwrap())
}

/// A store that cannot be asked.
#[derive(Debug)]
struct Broken;

fn broken<T: Send + 'static>() -> UpstreamFuture<'static, T> {
    let error = AuthError::new(AuthErrorKind::Unavailable, "redis at 10.1.2.3 is down");
    Box::pin(async { Err(error) })
}

impl UpstreamTokenStore for Broken {
    fn load<'a>(&'a self, _: &'a TokenOwner) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        broken()
    }

    fn put<'a>(
        &'a self,
        _: &'a TokenOwner,
        _: &'a str,
        _: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        broken()
    }

    fn remove<'a>(&'a self, _: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        broken()
    }

    fn remove_provider<'a>(&'a self, _: &'a TokenOwner, _: &'a str) -> UpstreamFuture<'a, ()> {
        broken()
    }

    fn use_once<'a>(&'a self, _: [u8; 32], _: u128, _: Duration) -> UpstreamFuture<'a, bool> {
        broken()
    }

    fn remove_user<'a>(&'a self, _: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        broken()
    }

    fn providers<'a>(&'a self, _: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>> {
        broken()
    }

    fn claim<'a>(
        &'a self,
        _: &'a TokenOwner,
        _: &'a str,
        _: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        broken()
    }

    fn renew<'a>(
        &'a self,
        _: &'a TokenOwner,
        _: &'a str,
        _: &'a Lease,
        _: Duration,
    ) -> UpstreamFuture<'a, bool> {
        broken()
    }

    fn settle<'a>(
        &'a self,
        _: &'a TokenOwner,
        _: &'a str,
        _: &'a Lease,
        _: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        broken()
    }
}

struct Setup {
    issuer: IdentityProvider,
    clock: Arc<ManualClock>,
    github: Scripted,
    store: MemoryStore,
    builder: TokenValidatorBuilder,
}

/// Two providers, `github` and `slack`. Alice's session `s` has tokens of both.
async fn setup() -> Setup {
    let clock = Arc::new(ManualClock::new(some_day()));
    let store = MemoryStore::new();
    let issuer = IdentityProvider::start(P256).await;
    let session = alice(&issuer).with_session("s");
    for provider in ["github", "slack"] {
        let tokens = tokens_of(provider, some_day());
        store.put(&session, provider, &tokens).await.unwrap();
    }
    let github = Scripted::default();
    let providers = [
        Provider::builder("github", github.clone()).build().unwrap(),
        Provider::builder("slack", Scripted::default())
            .build()
            .unwrap(),
    ];
    let upstream = UpstreamTokens::new(store.clone(), providers)
        .session_claim("tsid")
        .clock(clock.clone());
    let builder = TokenValidator::builder(issuer.issuer(), client())
        .audience(AUDIENCE)
        .clock(clock.clone())
        .upstream_tokens(upstream);
    Setup {
        issuer,
        clock,
        github,
        store,
        builder,
    }
}

fn alice(issuer: &IdentityProvider) -> TokenOwner {
    TokenOwner::new(issuer.issuer(), "alice").unwrap()
}

fn token(issuer: &IdentityProvider, session: Option<&str>, now: SystemTime) -> String {
    token_of(issuer, "alice", session, now)
}

fn token_of(
    issuer: &IdentityProvider,
    user: &str,
    session: Option<&str>,
    now: SystemTime,
) -> String {
    let mut claims = issuer.claims(user, now);
    if let Some(session) = session {
        claims["tsid"] = json!(session);
    }
    P256.sign(&P256.header(), &claims)
}

fn upstream<'a>(identity: &'a Identity, provider: &str) -> Option<&'a str> {
    let token = identity.upstream(provider)?;
    Some(token.access_token().expose())
}

fn upstream_of(identity: &Identity) -> Vec<(&str, &str)> {
    let upstreams = identity.upstreams();
    let tokens = upstreams.map(|(provider, token)| (provider, token.access_token().expose()));
    tokens.collect()
}

async fn forward(
    identity: Identity,
    provider: &str,
    clock: &Arc<ManualClock>,
) -> Option<AuthError> {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let strategy = UpstreamInject::new(provider).unwrap().clock(clock.clone());
    let backend = AuthLayer::new(origin, strategy).layer(RecordingService::new());
    let mut request = Request::post("https://mcp.example.com/mcp")
        .body(String::new())
        .unwrap();
    request.extensions_mut().insert(identity);
    let outcome = backend.oneshot(request).await;
    outcome
        .err()
        .map(|error| AuthError::find_in(error.as_ref()).unwrap().clone())
}

#[tokio::test]
async fn a_session_comes_with_the_tokens_of_all_its_providers_fresh() {
    let Setup {
        issuer,
        clock,
        builder,
        ..
    } = setup().await;
    // Remembered: the token is; what the session has is loaded each time.
    let validator = builder.cache_tokens(10).build().unwrap();
    let bearer = token(&issuer, Some("s"), clock.now() + LIFETIME);
    clock.advance(LIFETIME - Duration::from_secs(5));
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream(&identity, "github"), Some("fresh-github"));
    clock.advance(Duration::from_secs(500));
    let again = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream(&again, "slack"), Some("fresh-slack"));
    assert!(again.is_newer_than(&identity));
    assert_eq!(again.token().unwrap().expose(), bearer);
    assert!(!again.claims().contains_key("tsid"));
}

#[tokio::test]
async fn f66_a_users_tokens_are_found_whatever_the_issuer_calls_the_session() {
    let Setup {
        issuer,
        clock,
        store,
        builder,
        ..
    } = setup().await;
    let tokens = tokens_of("of-alice", some_day());
    store.put(&alice(&issuer), "github", &tokens).await.unwrap();
    let github = Provider::builder("github", Scripted::default());
    let upstream = UpstreamTokens::new(store, [github.build().unwrap()]).clock(clock.clone());
    let validator = builder.upstream_tokens(upstream).build().unwrap();
    for session in [None, Some("s"), Some("")] {
        let bearer = token(&issuer, session, clock.now());
        let identity = validator.validate(&bearer).await.unwrap();
        assert_eq!(upstream_of(&identity), [("github", "of-alice")]);
        let claim = identity.claims().get("tsid");
        assert_eq!(claim.and_then(|claim| claim.as_str()), session);
    }
    let bearer = token_of(&issuer, "bob", None, clock.now());
    let error = validator.validate(&bearer).await.unwrap_err();
    assert_eq!(error.provider(), Some("github"));
}

#[tokio::test]
async fn f65_a_session_is_of_one_user_of_one_issuer() {
    let Setup {
        issuer,
        clock,
        store,
        builder,
        ..
    } = setup().await;
    let validator = builder.admit_without_upstream_login().build().unwrap();
    let bearer = token(&issuer, Some("s"), clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(
        upstream_of(&identity),
        [("github", "github"), ("slack", "slack")]
    );
    let bearer = token_of(&issuer, "mallory", Some("s"), clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream_of(&identity), []);

    // Another issuer that knows an Alice, on the same store.
    let other = IdentityProvider::start(P256).await;
    let upstream = UpstreamTokens::new(store, []).session_claim("tsid");
    let validator = TokenValidator::builder(other.issuer(), client())
        .audience(AUDIENCE)
        .clock(clock.clone())
        .upstream_tokens(upstream)
        .build()
        .unwrap();
    let bearer = token(&other, Some("s"), clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream_of(&identity), []);
}

#[tokio::test]
async fn a_session_claim_that_names_no_session_is_refused() {
    let Setup {
        issuer,
        clock,
        builder,
        ..
    } = setup().await;
    let validator = builder.build().unwrap();
    for session in [json!(""), json!(" "), json!(1), json!(null), json!(["s"])] {
        let mut claims = issuer.claims("alice", clock.now());
        claims["tsid"] = session.clone();
        let bearer = P256.sign(&P256.header(), &claims);
        let error = validator.validate(&bearer).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected, "{session}");
    }
}

#[tokio::test]
async fn f80_the_newest_identity_is_the_one_whose_tokens_were_read_last() {
    let Setup {
        issuer,
        clock,
        github,
        builder,
        ..
    } = setup().await;
    let validator = builder.build().unwrap();
    clock.advance(LIFETIME);
    let bearer = token(&issuer, Some("s"), clock.now());

    // The first request reads the store and then waits for a provider, and the second one overtakes it.
    let gate = Arc::new(Semaphore::new(0));
    *github.gate.lock().unwrap() = Some(gate.clone());
    let slow = tokio::spawn(validator.validate(&bearer));
    while github.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let fast = Identity::builder("alice").build().unwrap();
    gate.add_permits(2);
    let slow = slow.await.unwrap().unwrap();
    assert!(
        fast.is_newer_than(&slow),
        "it was read later, and built first"
    );
    assert!(!slow.is_newer_than(&fast));
}

#[tokio::test]
async fn a_token_without_a_session_has_no_upstream_tokens() {
    let Setup {
        issuer,
        clock,
        builder,
        ..
    } = setup().await;
    let validator = builder.build().unwrap();
    let bearer = token(&issuer, None, clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(identity.upstreams().count(), 0);
}

#[tokio::test]
async fn f17_a_caller_who_has_to_log_in_again_is_told_so() {
    let Setup {
        issuer,
        clock,
        github,
        builder,
        ..
    } = setup().await;
    let validator = builder
        .resource("https://gateway.example.com")
        .build()
        .unwrap();
    *github.fails.lock().unwrap() = Some(AuthErrorKind::Rejected);
    clock.advance(2 * LIFETIME);
    for session in ["s", "no such session"] {
        let bearer = token(&issuer, Some(session), clock.now());
        let error = validator.validate(&bearer).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
        assert_eq!(error.provider(), Some("github"));
        let response = error.to_response::<Bytes>();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(
            challenge.starts_with(&format!(r#"Bearer realm="{AUDIENCE}", resource_metadata="#))
        );
        assert!(challenge.ends_with(r#"error="invalid_token", error_description="log in again""#));
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(!body.contains("github"), "{body}");
    }
}

#[tokio::test]
async fn where_it_is_allowed_a_caller_passes_without_the_provider_that_needs_a_log_in() {
    let Setup {
        issuer,
        clock,
        github,
        builder,
        ..
    } = setup().await;
    let validator = builder.admit_without_upstream_login().build().unwrap();
    *github.fails.lock().unwrap() = Some(AuthErrorKind::Rejected);
    clock.advance(2 * LIFETIME);
    let bearer = token(&issuer, Some("s"), clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream(&identity, "github"), None);
    assert_eq!(upstream(&identity, "slack"), Some("fresh-slack"));
    let error = forward(identity, "github", &clock).await.unwrap();
    assert_eq!(error.kind(), AuthErrorKind::MissingToken);
}

#[tokio::test]
async fn f29_a_provider_that_is_down_is_503_for_its_own_calls_and_no_others() {
    let Setup {
        issuer,
        clock,
        github,
        builder,
        ..
    } = setup().await;
    let validator = builder.build().unwrap();
    *github.fails.lock().unwrap() = Some(AuthErrorKind::Unavailable);
    clock.advance(2 * LIFETIME);
    let bearer = token(&issuer, Some("s"), clock.now());
    let identity = validator.validate(&bearer).await.unwrap();
    assert_eq!(upstream(&identity, "slack"), Some("fresh-slack"));
    assert!(forward(identity.clone(), "slack", &clock).await.is_none());
    let error = forward(identity, "github", &clock).await.unwrap();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(error.provider(), Some("github"));
    let response = error.to_response::<Bytes>();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn f29_a_store_that_is_down_is_503_and_shows_nothing_of_itself() {
    let Setup {
        issuer,
        clock,
        builder,
        ..
    } = setup().await;
    let validator = builder
        .upstream_tokens(UpstreamTokens::new(Broken, []))
        .build()
        .unwrap();
    let bearer = token(&issuer, Some("s"), clock.now());
    let error = validator.validate(&bearer).await.unwrap_err();
    let response = error.to_response::<Bytes>();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert!(!format!("{response:?}").contains("10.1.2.3"));
}
