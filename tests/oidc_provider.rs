//! What the crate does with an OpenID provider that nobody here wrote: npm's oidc-provider.
//!
//! `tests/peers/install` installs it. Where it is missing the tests say so and test nothing; with `CI` set they fail.

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    certificate,
    key_pair::{ED25519, KeyPair, P256, RSA},
    oidc_provider::{LoggedIn, OidcProvider},
    owner,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials, Clock, Identity,
    IntrospectionEndpoint, ManualClock, MemoryStore, Origin, Secret, Strategy, Subject,
    TokenEndpoint, TokenExchange, TokenValidator, TokenValidatorLayer, UpstreamTokenStore,
    UpstreamTokens,
    client::hyper::{HttpsClient, https_client},
    delegation_chain,
    incoming::Issuer,
    oauth::{PrivateKeyJwt, SecretSource, SigningAlgorithm, TokenRequest, TokenType},
    upstream::{Provider, RefreshTokenGrant, TokenOwner},
};

#[cfg(feature = "redis")]
use tower_identity::upstream::{ProviderTokens, Refreshed, Refresher, UpstreamFuture};

const GATEWAY: &str = "https://gateway.example.com/";
const OPAQUE: &str = "https://opaque.example.com/";
const BACKEND: &str = "https://backend.example.com/";
const HOUR: Duration = Duration::from_secs(3600);

/// RFC 6749 §2.3.1 has both encoded as in a form before they are joined by a colon.
const CONFIDENTIAL: &str = "client:1";
const SECRET: &str = "a b+c%d:/?&=";

async fn provider() -> Option<OidcProvider> {
    let with_key = |key: KeyPair| {
        json!({
            "client_id": key.id,
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": key.header()["alg"],
            "jwks": { "keys": [key.public()] },
        })
    };
    let resource = |algorithm: &str| json!({ "alg": algorithm });
    let mut with_certificate = with_key(RSA);
    with_certificate["client_id"] = json!("certified");
    let (_, der) = certificate();
    let key = &mut with_certificate["jwks"]["keys"][0];
    key["x5c"] = json!([STANDARD.encode(&der)]);
    key["x5t#S256"] = json!(URL_SAFE_NO_PAD.encode(Sha256::digest(&der)));
    OidcProvider::start(json!({
        "clients": [
            { "client_id": "browser", "token_endpoint_auth_method": "none" },
            { "client_id": CONFIDENTIAL, "client_secret": SECRET },
            {
                "client_id": "posting",
                "client_secret": SECRET,
                "token_endpoint_auth_method": "client_secret_post",
            },
            with_key(RSA),
            with_key(P256),
            with_key(ED25519),
            with_certificate,
        ],
        "resources": {
            GATEWAY: resource("RS256"),
            "https://es256.example.com/": resource("ES256"),
            "https://eddsa.example.com/": resource("EdDSA"),
            OPAQUE: { "format": "opaque" },
            BACKEND: { "alg": "ES256", "audience": "backend", "scope": "read write" },
        },
    }))
    .await
}

/// A certificate of the RSA key, in PEM and in DER.
fn certificate() -> (String, Vec<u8>) {
    static MADE: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    let make = || certificate::certificate(include_str!("support/keys/rsa.pem"));
    MADE.get_or_init(make).clone()
}

/// A client whose registered key has a certificate, and a JWT that it signed, as a platform writes it into a file.
fn certified() -> ClientAuth {
    let pem = secret(include_str!("support/keys/rsa.pem"));
    let key = PrivateKeyJwt::builder(SigningAlgorithm::Rs256, &pem)
        .certificates(certificate().0)
        .send_certificates();
    ClientAuth::private_key_jwt("certified", key.build().unwrap())
}

/// A JWT for this client, signed by somebody else, in a file that is replaced.
fn supplied(provider: &OidcProvider, folder: &std::path::Path) -> ClientAuth {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let claims = json!({
        "iss": ED25519.id,
        "sub": ED25519.id,
        "aud": provider.issuer(),
        "jti": format!("{:?}", std::time::Instant::now()),
        "iat": now,
        "exp": now + 60,
    });
    let header = json!({ "alg": "EdDSA", "kid": ED25519.id });
    std::fs::write(folder.join("token"), ED25519.sign(&header, &claims)).unwrap();
    ClientAuth::assertion(ED25519.id, SecretSource::file(folder.join("token")))
}

fn client() -> HttpsClient<Full<Bytes>> {
    https_client().unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(SystemTime::now()))
}

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn confidential() -> ClientAuth {
    ClientAuth::basic(CONFIDENTIAL, secret(SECRET))
}

fn endpoint(provider: &OidcProvider, client_auth: ClientAuth) -> TokenEndpoint {
    TokenEndpoint::builder(provider.token_endpoint(), client())
        .client_auth(client_auth)
        .build()
        .unwrap()
}

fn validator(provider: &OidcProvider, audience: &str) -> TokenValidator {
    TokenValidator::builder(provider.issuer(), client())
        .audience(audience)
        .build()
        .unwrap()
}

/// What a backend that validates tokens for `audience` gets to see of a request that leaves through `strategy`.
async fn arrives<A>(
    provider: &OidcProvider,
    audience: &str,
    strategy: A,
    user: Option<Identity>,
) -> Value
where
    A: Strategy<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let app = service_fn(async |request: Request<Full<Bytes>>| {
        let identity = request.extensions().get::<Identity>().unwrap();
        let chain = delegation_chain(identity).unwrap();
        let actors = chain.iter().map(|actor| actor.subject());
        let seen = json!({
            "subject": identity.subject(),
            "scope": identity.claims().get("scope"),
            "client": identity.claims().get("client_id"),
            "actors": actors.collect::<Vec<_>>(),
        });
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(seen.to_string()))))
    });
    let backend = TokenValidatorLayer::new(validator(provider, audience)).layer(app);
    let origin = Origin::try_from(BACKEND).unwrap();
    let mut request = Request::get(BACKEND).body(Full::default()).unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    let response = AuthLayer::new(origin, strategy).layer(backend);
    let response = response.oneshot(request).await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::OK,
        "{:?}",
        response.headers()
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_token_is_admitted_with_the_keys_that_discovery_leads_to_and_only_where_it_is_meant() {
    let Some(provider) = provider().await else {
        return;
    };
    for audience in [
        GATEWAY,
        "https://es256.example.com/",
        "https://eddsa.example.com/",
    ] {
        let user = provider
            .log_in("browser", "alice", "openid read", audience)
            .await;
        let identity = validator(&provider, audience).validate(&user.access_token);
        let identity = identity.await.unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(identity.issuer(), Some(provider.issuer()));
        assert_eq!(identity.claims()["scope"], "read");

        let elsewhere = validator(&provider, "https://other.example.com/");
        let refused = elsewhere.validate(&user.access_token).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Rejected);
        // An ID token says who logged in, and is no permission to call anything.
        let id_token = user.id_token.unwrap();
        let refused = validator(&provider, audience).validate(&id_token).await;
        assert_eq!(refused.unwrap_err().kind(), AuthErrorKind::Rejected);
    }
}

#[tokio::test]
async fn a_rotation_of_keys_is_followed_and_a_key_that_was_withdrawn_is_no_longer_trusted() {
    let Some(provider) = provider().await else {
        return;
    };
    let clock = clock();
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(GATEWAY)
        .clock(clock.clone())
        .build()
        .unwrap();
    let token = async || {
        let user = provider.log_in("browser", "alice", "openid", GATEWAY).await;
        user.access_token
    };
    let first = token().await;
    validator.validate(&first).await.unwrap();

    provider.rotate_keys(true).await;
    let second = token().await;
    clock.advance(Duration::from_secs(60));
    validator.validate(&second).await.unwrap();
    validator.validate(&first).await.unwrap();

    provider.rotate_keys(false).await;
    let third = token().await;
    clock.advance(Duration::from_secs(60));
    validator.validate(&third).await.unwrap();
    clock.advance(Duration::from_secs(60));
    for withdrawn in [first, second] {
        let refused = validator.validate(&withdrawn).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Rejected);
    }
}

#[tokio::test]
async fn f70_a_rotation_of_keys_is_followed_at_once_although_a_token_of_an_unknown_key_came_between()
 {
    let Some(provider) = provider().await else {
        return;
    };
    let clock = clock();
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(GATEWAY)
        .clock(clock.clone())
        .build()
        .unwrap();
    let token = async || {
        let user = provider.log_in("browser", "alice", "openid", GATEWAY).await;
        user.access_token
    };
    validator.validate(&token().await).await.unwrap();
    let mut header = P256.header();
    header["kid"] = json!("made-up");
    let bad = P256.sign(
        &header,
        &json!({ "iss": provider.issuer(), "aud": GATEWAY }),
    );
    for _ in 0..3 {
        let refused = validator.validate(&bad).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Rejected);
        provider.rotate_keys(true).await;
        validator.validate(&token().await).await.unwrap();
    }
    // The budget is spent by now, and a token of the next key is asked to wait, not refused.
    provider.rotate_keys(true).await;
    let good = token().await;
    let wait = validator.validate(&good).await.unwrap_err();
    assert_eq!(wait.kind(), AuthErrorKind::Unavailable, "{wait}");
    clock.advance(wait.retry_after().unwrap());
    validator.validate(&good).await.unwrap();
}

#[tokio::test]
async fn f71_a_refresh_token_that_the_provider_calls_active_is_refused() {
    let Some(provider) = provider().await else {
        return;
    };
    let endpoint = IntrospectionEndpoint::builder(provider.introspection_endpoint(), client())
        .client_auth(confidential())
        .build()
        .unwrap();
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(OPAQUE)
        .introspection(endpoint)
        .build()
        .unwrap();
    let user = provider
        .log_in("browser", "alice", "openid read", OPAQUE)
        .await;
    validator.validate(&user.access_token).await.unwrap();
    let refused = validator.validate(&user.refresh_token).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn f78_a_wrong_secret_at_introspection_is_the_operators_to_mend() {
    let Some(provider) = provider().await else {
        return;
    };
    for client_auth in [
        ClientAuth::basic(CONFIDENTIAL, secret("wrong")),
        ClientAuth::basic("nobody", secret(SECRET)),
    ] {
        let endpoint = IntrospectionEndpoint::builder(provider.introspection_endpoint(), client())
            .client_auth(client_auth)
            .build()
            .unwrap();
        let validator = TokenValidator::builder(provider.issuer(), client())
            .audience(OPAQUE)
            .introspection(endpoint)
            .build()
            .unwrap();
        let refused = validator.validate("opaque").await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Configuration, "{refused}");
    }
}

#[tokio::test]
async fn users_of_two_providers_are_admitted_by_one_gateway_each_with_their_own() {
    let (Some(first), Some(second)) = (provider().await, provider().await) else {
        return;
    };
    let validator = TokenValidator::builder(first.issuer(), client())
        .audience(GATEWAY)
        .issuer(Issuer::new(second.issuer(), client()).audience("https://es256.example.com/"))
        .build()
        .unwrap();
    let mut users = Vec::new();
    for (provider, audience) in [(&first, GATEWAY), (&second, "https://es256.example.com/")] {
        let user = provider
            .log_in("browser", "alice", "openid", audience)
            .await;
        let identity = validator.validate(&user.access_token).await.unwrap();
        assert_eq!(identity.issuer(), Some(provider.issuer()));
        users.push(identity);
    }
    assert!(!users[0].is_same_user(&users[1]), "both are called alice");
    let user = second.log_in("browser", "alice", "openid", GATEWAY).await;
    let refused = validator.validate(&user.access_token).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn an_opaque_token_is_admitted_by_introspection_until_it_is_revoked() {
    let Some(provider) = provider().await else {
        return;
    };
    let introspection = |client_auth| {
        IntrospectionEndpoint::builder(provider.introspection_endpoint(), client())
            .client_auth(client_auth)
            .build()
            .unwrap()
    };
    let validator = |client_auth| {
        TokenValidator::builder(provider.issuer(), client())
            .audience(OPAQUE)
            .introspection(introspection(client_auth))
            .build()
            .unwrap()
    };
    let user = provider
        .log_in("browser", "alice", "openid read", OPAQUE)
        .await;
    for client_auth in [
        confidential(),
        assertion(ED25519),
        ClientAuth::post("posting", secret(SECRET)),
    ] {
        let identity = validator(client_auth).validate(&user.access_token).await;
        let identity = identity.unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(identity.claims()["client_id"], "browser");
    }
    provider.revoke("browser", &user.access_token).await;
    let refused = validator(confidential()).validate(&user.access_token).await;
    assert_eq!(refused.unwrap_err().kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn each_way_of_client_authentication_gets_the_application_a_token_that_the_backend_admits() {
    let Some(provider) = provider().await else {
        return;
    };
    let mut ways = vec![
        (CONFIDENTIAL, confidential()),
        ("posting", ClientAuth::post("posting", secret(SECRET))),
    ];
    ways.extend([RSA, P256, ED25519].map(|key| (key.id, assertion(key))));
    ways.push(("certified", certified()));
    let folder = tempfile::tempdir().unwrap();
    ways.push((ED25519.id, supplied(&provider, folder.path())));
    for (client_id, client_auth) in ways {
        let strategy = ClientCredentials::builder(endpoint(&provider, client_auth))
            .resource(BACKEND)
            .scopes(["read"])
            .build()
            .unwrap();
        let seen = arrives(&provider, "backend", strategy, None).await;
        let expected = json!({
            "subject": client_id, "client": client_id, "scope": "read", "actors": [],
        });
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_wrong_secret_and_a_key_that_is_not_registered_are_the_operators_to_mend() {
    let Some(provider) = provider().await else {
        return;
    };
    let anothers = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &pem("p256"))
        .build()
        .unwrap();
    for client_auth in [
        ClientAuth::basic(CONFIDENTIAL, secret("wrong")),
        ClientAuth::basic("nobody", secret(SECRET)),
        ClientAuth::private_key_jwt("ed25519", anothers),
    ] {
        let request = TokenRequest::client_credentials().resource(BACKEND);
        let refused = endpoint(&provider, client_auth)
            .request_token(request)
            .await;
        assert_eq!(refused.unwrap_err().kind(), AuthErrorKind::Configuration);
    }
}

#[tokio::test]
async fn each_refresh_token_is_spent_once_however_many_requests_wait_and_the_family_lives_on() {
    let Some(provider) = provider().await else {
        return;
    };
    let (upstream, clock, first) = logged_in(&provider).await;
    let mut before = first.access_token;
    for refreshes in 1..=3 {
        clock.advance(HOUR);
        let loads = join_all((0..20).map(|_| upstream.load(&owner("alice")))).await;
        let mut tokens = loads.into_iter().map(|loaded| {
            let loaded = loaded.unwrap();
            loaded.tokens()["idp"].access_token().expose().to_owned()
        });
        let token = tokens.next().unwrap();
        assert!(tokens.all(|other| other == token), "all get the same one");
        assert_ne!(token, before);
        let identity = validator(&provider, GATEWAY)
            .validate(&token)
            .await
            .unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(
            provider.count("grant.success", "refresh_token").await,
            refreshes
        );
        before = token;
    }
    assert_eq!(provider.count("grant.error", "refresh_token").await, 0);
    assert_eq!(provider.count("grant.revoked", "refresh_token").await, 0);
}

#[tokio::test]
async fn a_family_that_a_stolen_refresh_token_killed_sends_the_user_to_log_in() {
    let Some(provider) = provider().await else {
        return;
    };
    let (upstream, clock, first) = logged_in(&provider).await;
    clock.advance(HOUR);
    upstream.load(&owner("alice")).await.unwrap();

    let (status, said) = provider
        .token(&[
            ("grant_type", "refresh_token"),
            ("client_id", "browser"),
            ("refresh_token", &first.refresh_token),
        ])
        .await;
    assert_eq!(
        (status, &said["error"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_grant"))
    );
    assert_eq!(provider.count("grant.revoked", "refresh_token").await, 1);

    clock.advance(HOUR);
    let loaded = upstream.load(&owner("alice")).await.unwrap();
    assert!(loaded.login_required().contains_key("idp"), "{loaded:?}");
    assert!(loaded.tokens().is_empty());
}

#[tokio::test]
async fn a_provider_that_does_not_rotate_is_asked_with_the_same_refresh_token_again() {
    let Some(provider) = provider().await else {
        return;
    };
    provider.set(json!({ "rotateRefreshTokens": false })).await;
    let (upstream, clock, _) = logged_in(&provider).await;
    for _ in 0..2 {
        clock.advance(HOUR);
        let loaded = upstream.load(&owner("alice")).await.unwrap();
        assert!(loaded.tokens().contains_key("idp"), "{loaded:?}");
    }
    assert_eq!(provider.count("grant.success", "refresh_token").await, 2);
}

/// A gateway for the users of one provider, who have accounts at another one, `idp`.
struct Gateway {
    users: OidcProvider,
    idp: OidcProvider,
    store: MemoryStore,
    /// The clock of the tokens of `idp`.
    clock: Arc<ManualClock>,
    validator: TokenValidator,
}

impl Gateway {
    async fn start(set: impl FnOnce(UpstreamTokens) -> UpstreamTokens) -> Option<Self> {
        let (users, idp) = (provider().await?, provider().await?);
        let clock = clock();
        let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
        let grant = RefreshTokenGrant::new(endpoint(&idp, ClientAuth::none("browser")));
        let upstream = Provider::builder("idp", grant).build().unwrap();
        let upstream = UpstreamTokens::new(store.clone(), [upstream]).clock(clock.clone());
        let validator = TokenValidator::builder(users.issuer(), client())
            .audience(GATEWAY)
            .upstream_tokens(set(upstream))
            .build()
            .unwrap();
        Some(Self {
            users,
            idp,
            store,
            clock,
            validator,
        })
    }

    /// The token that the user comes with after a log-in.
    async fn log_in(&self, user: &str) -> String {
        let log_in = self.users.log_in("browser", user, "openid", GATEWAY);
        log_in.await.access_token
    }

    fn owner(&self, user: &str) -> TokenOwner {
        TokenOwner::new(self.users.issuer(), user).unwrap()
    }

    /// Has the owner log in at `idp`, and gives the access token from there.
    async fn link(&self, owner: &TokenOwner) -> String {
        let linked = self
            .idp
            .log_in("browser", owner.subject(), "openid", BACKEND);
        let linked = linked.await;
        let tokens = linked.tokens(self.clock.now());
        self.store.put(owner, "idp", &tokens).await.unwrap();
        linked.access_token
    }

    /// The access token of `idp` that goes with a request.
    async fn upstream(&self, token: &str) -> Result<String, AuthErrorKind> {
        let identity = self.validator.validate(token).await;
        let identity = identity.map_err(|error| error.kind())?;
        let upstream = identity.upstream("idp").unwrap();
        Ok(upstream.access_token().expose().to_owned())
    }
}

#[tokio::test]
async fn f66_users_of_an_ordinary_provider_keep_their_upstream_tokens() {
    let Some(gateway) = Gateway::start(|upstream| upstream).await else {
        return;
    };
    let token = gateway.log_in("alice").await;
    let refused = gateway.upstream(&token).await.unwrap_err();
    assert_eq!(refused, AuthErrorKind::Rejected);

    let alice = gateway.owner("alice");
    let linked = gateway.link(&alice).await;
    assert_eq!(gateway.upstream(&token).await.as_ref(), Ok(&linked));
    let another = gateway.log_in("alice").await;
    assert_eq!(gateway.upstream(&another).await.as_ref(), Ok(&linked));
    let bob = gateway.log_in("bob").await;
    assert_eq!(gateway.upstream(&bob).await, Err(AuthErrorKind::Rejected));

    gateway.clock.advance(HOUR);
    let refreshed = gateway.upstream(&token).await.unwrap();
    assert_ne!(refreshed, linked);
    let idp = validator(&gateway.idp, "backend");
    assert_eq!(idp.validate(&refreshed).await.unwrap().subject(), "alice");
    assert_eq!(gateway.upstream(&another).await.as_ref(), Ok(&refreshed));
    assert_eq!(gateway.idp.count("grant.success", "refresh_token").await, 1);

    gateway.store.remove_user(&alice).await.unwrap();
    assert_eq!(gateway.upstream(&token).await, Err(AuthErrorKind::Rejected));
}

#[tokio::test]
async fn f65_each_session_of_a_user_has_its_own_upstream_tokens() {
    let gateway = Gateway::start(|upstream| upstream.session_claim("sid")).await;
    let Some(gateway) = gateway else {
        return;
    };
    gateway.users.set(json!({ "sid": true })).await;
    let session_of = async |token: &str| {
        let identity = validator(&gateway.users, GATEWAY).validate(token).await;
        let identity = identity.unwrap();
        let session = identity.claims()["sid"].as_str().unwrap();
        TokenOwner::of(&identity).unwrap().with_session(session)
    };
    let laptop = gateway.log_in("alice").await;
    let phone = gateway.log_in("alice").await;
    let owners = [session_of(&laptop).await, session_of(&phone).await];
    assert_ne!(owners[0], owners[1]);
    let on_laptop = gateway.link(&owners[0]).await;
    assert_eq!(gateway.upstream(&laptop).await.as_ref(), Ok(&on_laptop));
    assert_eq!(gateway.upstream(&phone).await, Err(AuthErrorKind::Rejected));
    let on_phone = gateway.link(&owners[1]).await;
    assert_eq!(gateway.upstream(&phone).await.as_ref(), Ok(&on_phone));
    assert_ne!(on_phone, on_laptop);

    gateway.store.remove(&owners[0]).await.unwrap();
    assert_eq!(
        gateway.upstream(&laptop).await,
        Err(AuthErrorKind::Rejected)
    );
    gateway.clock.advance(HOUR);
    assert_ne!(gateway.upstream(&phone).await.unwrap(), on_phone);
    gateway.store.remove_user(&owners[0]).await.unwrap();
    assert_eq!(gateway.upstream(&phone).await, Err(AuthErrorKind::Rejected));
}

/// Has Redis die when the provider has refreshed, and before it is stored.
#[cfg(feature = "redis")]
struct Fatal {
    grant: RefreshTokenGrant,
    redis: Arc<std::sync::Mutex<support::redis::RedisServer>>,
    is_over: Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(feature = "redis")]
impl std::fmt::Debug for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fatal")
    }
}

#[cfg(feature = "redis")]
impl Refresher for Fatal {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let refreshing = self.grant.refresh(tokens, now);
        let (redis, is_over) = (self.redis.clone(), self.is_over.clone());
        Box::pin(async move {
            let refreshed = refreshing.await;
            if !is_over.swap(true, std::sync::atomic::Ordering::SeqCst) {
                redis.lock().unwrap().kill();
            }
            refreshed
        })
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn f63_a_redis_that_dies_and_comes_back_from_a_snapshot_kills_no_family() {
    let (Some(provider), Some(redis)) = (
        provider().await,
        support::redis::RedisServer::start_with(&[]),
    ) else {
        return;
    };
    let clock = clock();
    let key = tower_identity::upstream::SealingKey::new([7; 32]);
    let store = tower_identity::RedisStore::builder(redis.url(), key)
        .build()
        .unwrap();
    let alice = owner("alice");
    let tokens = provider.log_in("browser", "alice", "openid", GATEWAY).await;
    store
        .put(&alice, "idp", &tokens.tokens(clock.now()))
        .await
        .unwrap();
    redis.save_snapshot();
    let redis = Arc::new(std::sync::Mutex::new(redis));
    let grant = RefreshTokenGrant::new(endpoint(&provider, ClientAuth::none("browser")));
    let fatal = Fatal {
        grant: grant.clone(),
        redis: redis.clone(),
        is_over: Arc::default(),
    };
    let replica = |idp: Provider| UpstreamTokens::new(store.clone(), [idp]).clock(clock.clone());
    let first = replica(Provider::builder("idp", fatal).build().unwrap());
    let second = replica(Provider::builder("idp", grant).build().unwrap());

    clock.advance(HOUR);
    let loaded = first.load(&alice).await.unwrap();
    let refreshed = loaded.tokens()["idp"].access_token().expose().to_owned();
    redis.lock().unwrap().restart();
    let is_stored = async {
        loop {
            let stored = store.load(&alice).await.unwrap_or_default();
            let token = stored.get("idp").map(|stored| stored.tokens().token());
            if token.is_some_and(|token| token.access_token().expose() == refreshed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), is_stored).await;
    in_time.expect("the refresh was lost");

    clock.advance(HOUR);
    let loaded = second.load(&alice).await.unwrap();
    assert!(loaded.tokens().contains_key("idp"), "{loaded:?}");
    assert_eq!(provider.count("grant.success", "refresh_token").await, 2);
    assert_eq!(provider.count("grant.error", "refresh_token").await, 0);
    assert_eq!(provider.count("grant.revoked", "refresh_token").await, 0);
}

#[tokio::test]
async fn a_users_token_is_exchanged_for_one_that_the_backend_admits_as_theirs() {
    let Some(provider) = provider().await else {
        return;
    };
    let alice = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;
    let identity = validator(&provider, GATEWAY)
        .validate(&alice.access_token)
        .await;
    let identity = identity.unwrap();
    let by_resource = TokenExchange::builder(endpoint(&provider, confidential())).resource(BACKEND);
    let by_audience =
        TokenExchange::builder(endpoint(&provider, assertion(RSA))).audience("backend");
    for (builder, client_id) in [(by_resource, CONFIDENTIAL), (by_audience, RSA.id)] {
        let strategy = builder.scopes(["read"]).build().unwrap();
        let seen = arrives(&provider, "backend", strategy, Some(identity.clone())).await;
        let expected = json!({
            "subject": "alice", "client": client_id, "scope": "read", "actors": [],
        });
        assert_eq!(seen, expected);
    }
}

/// The ID token is for the application that the user logged in to, which exchanges it.
#[tokio::test]
async fn an_id_token_and_a_jwt_are_exchanged_under_their_own_types() {
    let Some(provider) = provider().await else {
        return;
    };
    let alice = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;
    let tokens = alice.tokens(SystemTime::now());
    let identity = Identity::builder("alice")
        .token(tower_identity::AccessToken::new(&*alice.access_token).unwrap())
        .upstream("idp", tokens.token().clone())
        .build()
        .unwrap();
    for (subject, is_accepted) in [
        (Subject::upstream_id_token("idp"), true),
        (Subject::own_token().as_jwt(), true),
        (Subject::upstream("idp").as_type(TokenType::Jwt), true),
        (Subject::upstream("idp").as_type(TokenType::IdToken), false),
        (Subject::upstream("idp").as_type(TokenType::Saml2), false),
    ] {
        let strategy = TokenExchange::builder(endpoint(&provider, ClientAuth::none("browser")))
            .resource(BACKEND)
            .scopes(["read"])
            .subject(subject)
            .build()
            .unwrap();
        if is_accepted {
            let seen = arrives(&provider, "backend", strategy, Some(identity.clone())).await;
            assert_eq!(
                (&seen["subject"], &seen["client"]),
                (&json!("alice"), &json!("browser"))
            );
        } else {
            let mut request = Request::get(BACKEND)
                .body(Full::<Bytes>::default())
                .unwrap();
            request.extensions_mut().insert(identity.clone());
            let authenticating = strategy.authenticate(&mut request);
            let refused = authenticating.complete(request).await.unwrap_err();
            assert_eq!(refused.kind(), AuthErrorKind::Rejected);
        }
    }
}

#[tokio::test]
async fn a_backend_that_asks_for_more_scope_is_called_again_with_a_token_that_has_it() {
    let Some(provider) = provider().await else {
        return;
    };
    let alice = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;
    let alice = validator(&provider, GATEWAY).validate(&alice.access_token);
    let alice = alice.await.unwrap();
    let exchange = TokenExchange::builder(endpoint(&provider, confidential())).resource(BACKEND);
    let exchange = exchange.scopes(["read"]).build().unwrap();
    let of_client = ClientCredentials::builder(endpoint(&provider, confidential()));
    let of_client = of_client
        .resource(BACKEND)
        .scopes(["read"])
        .build()
        .unwrap();
    let strategies: [Arc<dyn Strategy<Full<Bytes>>>; 2] = [Arc::new(exchange), Arc::new(of_client)];
    for strategy in strategies {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let arrived = Arc::clone(&seen);
        let app = service_fn(move |request: Request<Full<Bytes>>| {
            let identity = request.extensions().get::<Identity>().unwrap();
            let scope = identity.claims()["scope"].as_str().unwrap().to_owned();
            let is_content = scope.split(' ').any(|scope| scope == "write");
            arrived.lock().unwrap().push(scope);
            let mut response = Response::new(Full::<Bytes>::default());
            if !is_content {
                *response.status_mut() = StatusCode::FORBIDDEN;
                let challenge = r#"Bearer error="insufficient_scope", scope="write""#;
                let challenge = challenge.parse().unwrap();
                response.headers_mut().insert("www-authenticate", challenge);
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let backend = TokenValidatorLayer::new(validator(&provider, "backend")).layer(app);
        let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), strategy);
        let client = layer.retry_rejected().step_up(["write"]).layer(backend);
        for _ in 0..2 {
            let mut request = Request::get(BACKEND).body(Full::default()).unwrap();
            request.extensions_mut().insert(alice.clone());
            let response = client.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(*seen.lock().unwrap(), ["read", "read write", "read write"]);
    }
    assert_eq!(provider.count("grant.success", TOKEN_EXCHANGE).await, 2);
}

#[tokio::test]
async fn who_acts_for_the_user_is_in_the_exchanged_token() {
    let Some(provider) = provider().await else {
        return;
    };
    let alice = provider.log_in("browser", "alice", "openid", GATEWAY).await;
    let agent = provider.log_in("browser", "agent", "openid", GATEWAY).await;
    let identity = validator(&provider, GATEWAY)
        .validate(&alice.access_token)
        .await;
    let strategy = TokenExchange::builder(endpoint(&provider, confidential()))
        .resource(BACKEND)
        .actor(tower_identity::Actor::supplied(
            TokenType::AccessToken,
            move || secret(&agent.access_token),
        ))
        .build()
        .unwrap();
    let seen = arrives(&provider, "backend", strategy, Some(identity.unwrap())).await;
    assert_eq!(
        (&seen["subject"], &seen["actors"]),
        (&json!("alice"), &json!(["agent"]))
    );
}

#[tokio::test]
async fn a_token_that_the_provider_does_not_know_is_not_exchanged_and_nothing_leaves() {
    let Some(provider) = provider().await else {
        return;
    };
    let strategy = TokenExchange::builder(endpoint(&provider, confidential()))
        .resource(BACKEND)
        .build()
        .unwrap();
    let unknown = Identity::builder("alice")
        .token(tower_identity::AccessToken::new("unknown").unwrap())
        .build()
        .unwrap();
    let backend = service_fn(
        async |_: Request<Full<Bytes>>| -> Result<Response<()>, Infallible> { panic!("it left") },
    );
    let origin = Origin::try_from(BACKEND).unwrap();
    let mut request = Request::get(BACKEND).body(Full::default()).unwrap();
    request.extensions_mut().insert(unknown);
    AuthLayer::new(origin, strategy)
        .layer(backend)
        .oneshot(request)
        .await
        .unwrap_err();
    assert_eq!(provider.count("grant.error", TOKEN_EXCHANGE).await, 1);
}

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Alice's tokens in a store, as they are an hour before they expire.
async fn logged_in(provider: &OidcProvider) -> (UpstreamTokens, Arc<ManualClock>, LoggedIn) {
    let clock = clock();
    let grant = RefreshTokenGrant::new(endpoint(provider, ClientAuth::none("browser")));
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let tokens = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;
    let stored = tokens.tokens(clock.now());
    store.put(&owner("alice"), "idp", &stored).await.unwrap();
    let idp = Provider::builder("idp", grant).build().unwrap();
    let upstream = UpstreamTokens::new(store, [idp]).clock(clock.clone());
    (upstream, clock, tokens)
}

fn assertion(key: KeyPair) -> ClientAuth {
    let algorithm = match key.id {
        "rsa" => SigningAlgorithm::Rs256,
        "p256" => SigningAlgorithm::Es256,
        _ => SigningAlgorithm::EdDsa,
    };
    let private = PrivateKeyJwt::builder(algorithm, &pem(key.id))
        .key_id(key.id)
        .build()
        .unwrap();
    ClientAuth::private_key_jwt(key.id, private)
}

fn pem(key: &str) -> Secret {
    let file = format!(
        "{}/tests/support/keys/{key}.pem",
        env!("CARGO_MANIFEST_DIR")
    );
    secret(&std::fs::read_to_string(file).unwrap())
}
