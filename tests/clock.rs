//! A test sets the clock once, and all parts tell the time by it.
#![cfg(feature = "incoming")]

mod support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use serde_json::json;
use support::{
    key_pair::P256,
    recording::{RecordingService, request},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Clock, DefaultClock, Identity, KeySet,
    ManualClock, MemoryStore, Origin, Secret, Strategy, SystemClock, TokenEndpoint, TokenExchange,
    TokenValidator, UpstreamInject, UpstreamToken, UpstreamTokenStore, UpstreamTokens,
    upstream::{
        Claim, Claimed, Provider, ProviderTokens, RefreshTokenGrant, Refresher, TokenOwner,
    },
};

const ISSUER: &str = "https://idp.example.com";
const AUDIENCE: &str = "https://gateway.example.com";
const HOUR: Duration = Duration::from_secs(3600);
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

fn some_day() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Issues `issued-1`, `issued-2` and so on, each for half an hour.
#[derive(Clone, Default)]
struct Issuer {
    issued: Arc<AtomicUsize>,
}

impl Issuer {
    fn endpoint(&self) -> TokenEndpoint {
        let issued = self.issued.clone();
        let client = service_fn(move |_: Request<Full<Bytes>>| {
            let number = issued.fetch_add(1, SeqCst) + 1;
            let answer = json!({
                "access_token": format!("issued-{number}"),
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": HALF_AN_HOUR.as_secs(),
                "refresh_token": "refresh",
            });
            async move {
                let response = Response::builder().header(CONTENT_TYPE, "application/json");
                let body = Full::<Bytes>::from(answer.to_string());
                Ok::<_, Infallible>(response.body(body).unwrap())
            }
        });
        TokenEndpoint::builder("https://idp.example.com/token", client)
            .build()
            .unwrap()
    }

    /// At each call, an issuer that is down until an hour after `some_day`.
    fn unavailable_endpoint() -> TokenEndpoint {
        let until = "Sun, 09 Sep 2001 02:46:40 GMT";
        let client = service_fn(move |_: Request<Full<Bytes>>| async move {
            let response = Response::builder()
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header("retry-after", until);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        });
        TokenEndpoint::builder("https://idp.example.com/token", client)
            .build()
            .unwrap()
    }
}

fn alice() -> TokenOwner {
    TokenOwner::new(ISSUER, "alice").unwrap()
}

/// A token for the gateway, of a user with upstream tokens, that lasts for half an hour.
fn token(now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let claims = json!({
        "iss": ISSUER,
        "sub": "alice",
        "aud": AUDIENCE,
        "exp": (now + HALF_AN_HOUR).as_secs(),
    });
    P256.sign(&P256.header(), &claims)
}

fn identity(now: SystemTime) -> Identity {
    let token = UpstreamToken::new(AccessToken::new("github-token").unwrap());
    Identity::builder("alice")
        .token(AccessToken::new("token-of-alice").unwrap())
        .upstream("github", token.with_expires_at(now + HALF_AN_HOUR))
        .build()
        .unwrap()
}

/// The `authorization` that a request leaves with.
async fn send(
    strategy: impl Strategy<String> + Clone + 'static,
    user: &Identity,
) -> Result<String, AuthError> {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let backend = RecordingService::new();
    let client = AuthLayer::new(origin, strategy).layer(backend.clone());
    let sent = client
        .oneshot(request(Method::GET, Some(user.clone())))
        .await;
    sent.map_err(|error| AuthError::find_in(error.as_ref()).unwrap().clone())?;
    Ok(backend.arrival().header("authorization").concat())
}

#[tokio::test]
async fn a_clock_that_is_set_once_moves_everything() {
    let clock = Arc::new(ManualClock::new(some_day()));
    let _default = DefaultClock::set(clock.clone());

    let issuer = Issuer::default();
    let store = MemoryStore::new();
    let bounded = MemoryStore::builder().capacity(10).build().unwrap();
    let refresher = RefreshTokenGrant::new(issuer.endpoint());
    let github = Provider::builder("github", refresher).build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [github]);
    let keys = KeySet::from_json(json!({ "keys": [P256.public()] }).to_string()).unwrap();
    let validator = TokenValidator::builder_with_keys(ISSUER, keys)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
        .upstream_tokens(upstream)
        .build()
        .unwrap();
    let exchange = TokenExchange::builder(issuer.endpoint()).build().unwrap();
    let inject = UpstreamInject::new("github").unwrap();
    let unavailable = RefreshTokenGrant::new(Issuer::unavailable_endpoint());

    let access_token = UpstreamToken::new(AccessToken::new("at-login").unwrap());
    let at_login = ProviderTokens::new(
        access_token.with_expires_at(some_day() + HALF_AN_HOUR),
        some_day(),
    )
    .with_refresh_token(Secret::new("refresh").unwrap());
    for store in [&store, &bounded] {
        store.put(&alice(), "github", &at_login).await.unwrap();
    }
    let stored = bounded
        .load(&alice())
        .await
        .unwrap()
        .remove("github")
        .unwrap();
    let claim = || Claim::new(stored.version(), HALF_AN_HOUR).with_in_doubt_for(HOUR);
    let claimed = bounded.claim(&alice(), "github", &claim()).await.unwrap();
    assert!(matches!(claimed, Claimed::Granted(_)));

    let token_now = token(clock.now());
    let validated = validator.validate(&token_now).await.unwrap();
    let upstream_token = |identity: &Identity| {
        let token = identity.upstream("github").unwrap().access_token();
        token.expose().to_owned()
    };
    assert_eq!(upstream_token(&validated), "at-login");
    let user = identity(clock.now());
    for _ in 0..2 {
        let sent = send(exchange.clone(), &user).await.unwrap();
        assert_eq!(sent, "Bearer issued-1");
    }
    assert_eq!(
        send(inject.clone(), &user).await.unwrap(),
        "Bearer github-token"
    );
    let refused = unavailable.refresh(&at_login, some_day());
    let retry_after = refused.await.unwrap_err().retry_after();
    assert_eq!(retry_after, Some(HOUR));

    clock.advance(HOUR);

    let refused = validator.validate(&token_now).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Expired);
    let validated = validator.validate(&token(clock.now())).await.unwrap();
    assert_eq!(upstream_token(&validated), "issued-2");
    let sent = send(exchange, &user).await.unwrap();
    assert_eq!(sent, "Bearer issued-3");
    let refused = send(inject, &user).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Expired);
    let claimed = bounded.claim(&alice(), "github", &claim()).await.unwrap();
    assert!(matches!(claimed, Claimed::Gone), "{claimed:?}");
    let refused = unavailable.refresh(&at_login, some_day());
    let retry_after = refused.await.unwrap_err().retry_after();
    assert_eq!(retry_after, Some(Duration::ZERO));
}

/// Whether an upstream token that expired on `some_day` is refused.
async fn is_expired(inject: UpstreamInject) -> bool {
    match send(inject, &identity(some_day() - HALF_AN_HOUR)).await {
        Ok(_) => false,
        Err(error) => error.kind() == AuthErrorKind::Expired,
    }
}

#[tokio::test]
async fn a_clock_that_is_given_to_a_part_overrides_the_default() {
    let early = Arc::new(ManualClock::new(some_day() - HOUR));
    let inject = || UpstreamInject::new("github").unwrap();
    let _default = DefaultClock::set(early.clone());
    assert!(!is_expired(inject()).await);
    assert!(is_expired(inject().clock(Arc::new(SystemClock))).await);
}

#[tokio::test]
async fn a_default_clock_ends_with_its_value_and_holds_for_its_thread_alone() {
    let early = Arc::new(ManualClock::new(some_day() - HOUR));
    let inject = || UpstreamInject::new("github").unwrap();
    let made_before = inject();
    let default = DefaultClock::set(early);
    let made_meanwhile = inject();
    let made_elsewhere = std::thread::spawn(inject).join().unwrap();
    {
        let _inner = DefaultClock::set(Arc::new(SystemClock));
        assert!(is_expired(inject()).await);
    }
    assert!(!is_expired(inject()).await);
    drop(default);
    assert!(is_expired(inject()).await);
    assert!(is_expired(made_before).await);
    assert!(is_expired(made_elsewhere).await);
    assert!(!is_expired(made_meanwhile).await);
}
