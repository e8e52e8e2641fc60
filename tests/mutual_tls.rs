//! Mutual TLS (RFC 8705) with an authorization server that nobody here wrote, npm's oidc-provider: the client authenticates
//! with its certificate, the tokens are bound to it, and the validator compares it with that of the connection.
//!
//! `tests/peers/install` installs it. Where it is missing the tests say so and test nothing; with `CI` set they fail.

mod support;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use support::{
    authority::Authority,
    http_server::server_body,
    identity_provider::{IdentityProvider, OPENID, P256},
    issuer::Issuer,
    mutual_tls::{MutualTlsServer, Peer, thumbprint, thumbprint_of_pem},
    oidc_provider::OidcProvider,
    token_stack::{endpoint_builder, http_client, jwt, token_for, user_with_id_token},
};
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials,
    CredentialCache, CrossAppAccess, DefaultClock, Identity, IntrospectionEndpoint, ManualClock,
    MemoryStore, OnBehalfOf, Origin, OutgoingAuthConfig, Secret, TokenEndpoint, TokenValidator,
    TokenValidatorLayer, UpstreamToken,
    client::hyper::{CertificateSource, HttpsClient},
    config::Resources,
    incoming::ClientCertificate,
    oauth::TokenRequest,
    strategy::IssuedToken,
    upstream::{
        OAuthProvider, ProviderSettings, ProviderTokens, Refreshed, Refresher, linking::CodeFlow,
    },
};

const BACKEND: &str = "https://backend.example.com/";
const IDP: &str = "https://idp.example.com";
const AS: &str = "https://as.example.com";
const OPAQUE: &str = "https://opaque.example.com/";
const REDIRECT_URI: &str = "https://gateway.example.com/callback";

type Pair = (String, String);

/// An authority, a provider that trusts it, and certificates of clients of it.
struct World {
    authority: Authority,
    provider: OidcProvider,
    /// Of the authority, with the subject that the provider knows.
    gateway: Pair,
    /// Of nobody, and known to the provider by itself.
    own: Pair,
}

impl World {
    /// `None`, loudly, where oidc-provider is not installed. With `aliases`, only some endpoints ask for a certificate.
    async fn start(aliases: bool) -> Option<Self> {
        let authority = Authority::new();
        let gateway = authority.issue("gateway");
        let (own, public) = self_signed();
        let (certificate, key) = authority.issue("127.0.0.1");
        let client = |id: &str, method: &str| {
            json!({
                "client_id": id,
                "token_endpoint_auth_method": method,
                "tls_client_certificate_bound_access_tokens": true,
                "redirect_uris": [REDIRECT_URI],
            })
        };
        let mut of_the_authority = client("gateway", "tls_client_auth");
        of_the_authority["tls_client_auth_subject_dn"] = json!("CN=gateway");
        let mut of_its_own = client("own", "self_signed_tls_client_auth");
        of_its_own["jwks"] = json!({ "keys": [public] });
        let mut with_a_secret = client("secret", "client_secret_basic");
        with_a_secret["client_secret"] = json!("a-secret");
        let public = client("public", "none");
        let options = json!({
            "tls": {
                "key": key,
                "cert": certificate,
                "ca": authority.certificate,
                "aliases": aliases,
            },
            "clients": [of_the_authority, of_its_own, with_a_secret, public],
            "resources": {
                BACKEND: { "audience": "backend" },
                OPAQUE: { "format": "opaque" },
            },
        });
        let client = HttpsClient::builder().authorities(&authority.certificate);
        Some(Self {
            provider: OidcProvider::start_tls(options, client.build().unwrap()).await?,
            authority,
            gateway,
            own,
        })
    }

    fn client(&self, certificate: Option<&CertificateSource>) -> HttpsClient<Full<Bytes>> {
        let mut builder = HttpsClient::builder().authorities(&self.authority.certificate);
        if let Some(certificate) = certificate {
            builder = builder.client_certificate(certificate.clone());
        }
        builder.build().unwrap()
    }

    fn endpoint(
        &self,
        client_auth: ClientAuth,
        certificate: Option<&CertificateSource>,
    ) -> TokenEndpoint {
        let client = self.client(certificate);
        let mut builder =
            TokenEndpoint::builder(self.provider.token_endpoint(), client).client_auth(client_auth);
        if let Some(certificate) = certificate {
            builder = builder.client_certificate(certificate.clone());
        }
        builder.build().unwrap()
    }

    /// A login of Alice, for a token for this resource.
    fn settings(&self, resource: &str) -> ProviderSettings {
        ProviderSettings::discovered(self.provider.issuer())
            .scopes(["openid", "offline_access"])
            .resource(resource)
            .parameter("login_hint", "alice")
            .parameter("prompt", "consent")
    }

    /// A service that only callers with a good token reach, over a connection with a certificate of the authority. It says
    /// who the caller is.
    async fn backend(&self) -> MutualTlsServer {
        let validator = TokenValidator::builder(self.provider.issuer(), self.client(None))
            .audience("backend")
            .build()
            .unwrap();
        let service = TokenValidatorLayer::new(validator).layer(service_fn(
            async |request: Request<Full<Bytes>>| {
                let identity = request.extensions().get::<Identity>().unwrap();
                let said = identity.claims()["cnf"].to_string();
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(said))))
            },
        ));
        MutualTlsServer::start_with(&self.authority, false, move |mut request: Request<_>| {
            let peer = request.extensions_mut().remove::<Peer>().unwrap();
            let mut request = request.map(|_| Full::<Bytes>::default());
            if let Some(certificate) = &peer.certificate {
                let certificate = ClientCertificate::from_der(certificate);
                request.extensions_mut().insert(certificate);
            }
            let service = service.clone();
            async move { service.oneshot(request).await.unwrap().map(server_body) }
        })
        .await
    }
}

fn source(pair: &Pair) -> CertificateSource {
    CertificateSource::pem(&pair.0, &Secret::new(&*pair.1).unwrap()).unwrap()
}

/// A certificate that nobody vouches for, and its key as a JWK.
fn self_signed() -> (Pair, Value) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["gateway".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let der = certificate.der();
    // An uncompressed point: 4, x and y.
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let jwk = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(x),
        "y": URL_SAFE_NO_PAD.encode(y),
        "x5c": [STANDARD.encode(der)],
        "x5t#S256": thumbprint(der),
    });
    let pem = |label: &str, der: &[u8]| {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let pair = (
        pem("CERTIFICATE", der),
        pem("PRIVATE KEY", key.serialized_der()),
    );
    (pair, jwk)
}

/// The thumbprint in an access token, which is a JWT.
fn bound_to(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    claims["cnf"]["x5t#S256"].as_str().unwrap().to_owned()
}

async fn send(client: HttpsClient<Full<Bytes>>, uri: &str, token: &str) -> StatusCode {
    let request = Request::get(uri)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::default())
        .unwrap();
    client.oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn a_client_authenticates_with_its_certificate_and_its_tokens_are_bound_to_it() {
    let Some(world) = World::start(false).await else {
        return;
    };
    for (client_auth, pair) in [
        (ClientAuth::tls_client_auth("gateway"), &world.gateway),
        (ClientAuth::self_signed_tls_client_auth("own"), &world.own),
        (
            ClientAuth::basic("secret", Secret::new("a-secret").unwrap()),
            &world.gateway,
        ),
    ] {
        let endpoint = world.endpoint(client_auth, Some(&source(pair)));
        let request = TokenRequest::client_credentials().resource(BACKEND);
        let response = endpoint.request_token(request).await.unwrap();
        let bound_to = bound_to(response.token().expose());
        assert_eq!(bound_to, thumbprint_of_pem(&pair.0));
    }
}

#[tokio::test]
async fn a_client_with_another_certificate_or_none_is_the_operators_to_mend() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let stranger = world.authority.issue("stranger");
    let (unknown, _) = self_signed();
    for (client_auth, pair) in [
        (ClientAuth::tls_client_auth("gateway"), None),
        (ClientAuth::tls_client_auth("gateway"), Some(&stranger)),
        (ClientAuth::tls_client_auth("gateway"), Some(&world.own)),
        (ClientAuth::self_signed_tls_client_auth("own"), None),
        (
            ClientAuth::self_signed_tls_client_auth("own"),
            Some(&unknown),
        ),
    ] {
        let certificate = pair.map(source);
        let endpoint = world.endpoint(client_auth, certificate.as_ref());
        let request = TokenRequest::client_credentials().resource(BACKEND);
        let error = endpoint.request_token(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration, "{error}");
        assert_eq!(error.oauth_error(), Some("invalid_client"));
    }
}

#[tokio::test]
async fn a_bound_token_is_accepted_over_a_connection_with_its_certificate_and_no_other() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let certificate = source(&world.gateway);
    let backend = world.backend().await;
    let client_auth = ClientAuth::tls_client_auth("gateway");
    let endpoint = world.endpoint(client_auth, Some(&certificate));
    let strategy = ClientCredentials::builder(endpoint.clone())
        .resource(BACKEND)
        .build()
        .unwrap();
    let origin = Origin::try_from(backend.uri("")).unwrap();
    let stack = AuthLayer::new(origin, strategy).layer(world.client(Some(&certificate)));
    let request = Request::get(backend.uri("/")).body(Full::default());
    let response = stack.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);

    let request = TokenRequest::client_credentials().resource(BACKEND);
    let response = endpoint.request_token(request).await.unwrap();
    let token = response.token().expose();
    let thief = source(&world.authority.issue("thief"));
    // The same subject, from the same authority.
    let namesake = source(&world.authority.issue("gateway"));
    for (certificate, status) in [
        (Some(&certificate), StatusCode::OK),
        (Some(&thief), StatusCode::UNAUTHORIZED),
        (Some(&namesake), StatusCode::UNAUTHORIZED),
        (None, StatusCode::UNAUTHORIZED),
    ] {
        let client = world.client(certificate);
        assert_eq!(send(client, &backend.uri("/"), token).await, status);
    }
}

#[tokio::test]
async fn an_opaque_token_is_bound_by_what_the_introspection_endpoint_says() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let certificate = source(&world.gateway);
    let client_auth = ClientAuth::tls_client_auth("gateway");
    let client = world.client(Some(&certificate));
    let settings = world.settings(OPAQUE);
    let provider = OAuthProvider::builder(settings, client_auth.clone(), client.clone());
    let tokens = log_in(&world, provider.build().unwrap()).await;
    let token = tokens.token().access_token().expose();

    let url = world.provider.introspection_endpoint();
    let endpoint = IntrospectionEndpoint::builder(url, client.clone()).client_auth(client_auth);
    let validator = TokenValidator::builder(world.provider.issuer(), client)
        .audience(OPAQUE)
        .introspection(endpoint.build().unwrap())
        .build()
        .unwrap();
    let mut request = Request::get("/").body(()).unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    let error = validator.validate_request(&request).await.unwrap_err();
    assert!(error.to_string().contains("`cnf`"), "{error}");

    let der = STANDARD.decode(body_of(&world.gateway.0)).unwrap();
    let certificate = ClientCertificate::from_der(&der);
    request.extensions_mut().insert(certificate);
    let identity = validator.validate_request(&request).await.unwrap();
    assert_eq!(identity.subject(), "alice");
    let confirmation = &identity.claims()["cnf"];
    assert_eq!(confirmation["x5t#S256"], certificate.thumbprint());
}

fn body_of(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// Logs a user in, and returns the tokens.
async fn log_in(world: &World, provider: OAuthProvider) -> ProviderTokens {
    let flow = CodeFlow::new(provider, REDIRECT_URI, MemoryStore::new()).unwrap();
    let started = flow.start(&HeaderMap::new(), None, "/").await.unwrap();
    let location = started.headers()[header::LOCATION].to_str().unwrap();
    let cookie = started.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let back = world.provider.browse(location).await;
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, cookie.parse().unwrap());
    let finished = flow.finish(&back.parse().unwrap(), &headers, None).await;
    finished.unwrap().tokens().clone()
}

#[tokio::test]
async fn the_aliases_in_the_metadata_are_used_by_clients_that_present_a_certificate() {
    let Some(world) = World::start(true).await else {
        return;
    };
    let certificate = source(&world.gateway);
    let secret = || ClientAuth::basic("secret", Secret::new("a-secret").unwrap());
    let builder = |client_auth| {
        let settings = world.settings(BACKEND);
        OAuthProvider::builder(settings, client_auth, world.client(Some(&certificate)))
    };
    for builder in [
        builder(ClientAuth::tls_client_auth("gateway")),
        builder(secret()).certificate_bound_tokens(),
    ] {
        let provider = builder.build().unwrap();
        let tokens = log_in(&world, provider.clone()).await;
        let expected = thumbprint_of_pem(&world.gateway.0);
        assert_eq!(bound_to(tokens.token().access_token().expose()), expected);

        let Refreshed::Tokens(refreshed) =
            provider.refresh(&tokens, SystemTime::now()).await.unwrap()
        else {
            panic!("no tokens");
        };
        assert_eq!(
            bound_to(refreshed.token().access_token().expose()),
            expected
        );
    }

    // At the endpoint that asks for no certificate, there is nothing that the client could be known by.
    let endpoint = world.endpoint(ClientAuth::tls_client_auth("gateway"), Some(&certificate));
    let request = || TokenRequest::client_credentials().resource(BACKEND);
    let error = endpoint.request_token(request()).await.unwrap_err();
    assert_eq!(error.oauth_error(), Some("invalid_client"));
    let url = world.provider.alias("/token");
    let endpoint = TokenEndpoint::builder(url, world.client(Some(&certificate)))
        .client_auth(ClientAuth::tls_client_auth("gateway"))
        .build()
        .unwrap();
    endpoint.request_token(request()).await.unwrap();
}

/// The refresh token of a client that authenticates is bound to the client (RFC 8705 §7.1), that of a public client to the
/// certificate (§4).
#[tokio::test]
async fn after_a_new_certificate_a_client_that_authenticates_refreshes_and_the_users_of_a_public_one_log_in()
 {
    let Some(world) = World::start(true).await else {
        return;
    };
    let newer = world.authority.issue("gateway");
    let secret = Secret::new("a-secret").unwrap();
    for client_auth in [
        ClientAuth::tls_client_auth("gateway"),
        ClientAuth::basic("secret", secret),
        ClientAuth::none("public"),
    ] {
        let with = |certificate: &Pair| {
            let client = world.client(Some(&source(certificate)));
            let settings = world.settings(BACKEND);
            let provider = OAuthProvider::builder(settings, client_auth.clone(), client);
            provider.certificate_bound_tokens().build().unwrap()
        };
        let tokens = log_in(&world, with(&world.gateway)).await;
        let refresh = async |certificate| {
            let refreshed = with(certificate)
                .refresh(&tokens, SystemTime::now())
                .await?;
            let Refreshed::Tokens(tokens) = refreshed else {
                panic!("no tokens");
            };
            Ok(bound_to(tokens.token().access_token().expose()))
        };
        let refreshed: Result<_, AuthError> = refresh(&newer).await;
        if client_auth.client_id() != "public" {
            assert_eq!(refreshed.unwrap(), thumbprint_of_pem(&newer.0));
            continue;
        }
        let error = refreshed.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected, "{error}");
        assert_eq!(error.oauth_error(), Some("invalid_grant"));
        let with_the_old_one = refresh(&world.gateway).await;
        let expected = thumbprint_of_pem(&world.gateway.0);
        assert_eq!(with_the_old_one.unwrap(), expected);
    }
}

/// Files of a certificate that is replaced while a stack is running.
struct Files {
    folder: TempDir,
}

impl Files {
    fn of(pair: &Pair) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.write(pair);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, pair: &Pair) {
        for (name, content) in [("tls.crt", &pair.0), ("tls.key", &pair.1)] {
            fs::write(self.path("new"), content).unwrap();
            fs::rename(self.path("new"), self.path(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_replaced_certificate_means_new_tokens_and_new_connections_without_a_restart() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _default = DefaultClock::set(clock.clone());
    let files = Files::of(&world.gateway);
    let certificate =
        CertificateSource::files(files.path("tls.crt"), files.path("tls.key")).unwrap();
    let backend = world.backend().await;
    let client_auth = ClientAuth::tls_client_auth("gateway");
    let endpoint = world.endpoint(client_auth, Some(&certificate));
    let strategy = ClientCredentials::builder(endpoint).resource(BACKEND);
    let origin = Origin::try_from(backend.uri("")).unwrap();
    let stack = AuthLayer::new(origin, strategy.build().unwrap())
        .retry_rejected()
        .layer(world.client(Some(&certificate)));
    let confirmed = async || {
        let request = Request::get(backend.uri("/")).body(Full::default());
        let response = stack.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await;
        String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
    };
    let tokens = async || {
        world
            .provider
            .count("grant.success", "client_credentials")
            .await
    };
    for _ in 0..3 {
        assert!(
            confirmed()
                .await
                .contains(&thumbprint_of_pem(&world.gateway.0))
        );
    }
    assert_eq!(tokens().await, 1);

    let newer = world.authority.issue("gateway");
    files.write(&newer);
    let expected = thumbprint_of_pem(&newer.0);
    let mut requests = 0;
    loop {
        clock.advance(Duration::from_secs(2));
        if confirmed().await.contains(&expected) {
            break;
        }
        requests += 1;
        assert!(requests < 1000, "the new certificate is not presented");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..3 {
        assert!(confirmed().await.contains(&expected));
    }
    assert_eq!(tokens().await, 2);
}

#[tokio::test]
async fn two_endpoints_share_no_token_unless_they_present_the_same_certificate() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let cache = CredentialCache::<IssuedToken>::builder().build().unwrap();
    let backend = world.backend().await;
    let namesake = world.authority.issue("gateway");
    let [first, second] = [source(&world.gateway), source(&namesake)];
    let call = async |certificate: &CertificateSource, is_told: bool| {
        let client = world.client(Some(certificate));
        let mut endpoint = TokenEndpoint::builder(world.provider.token_endpoint(), client.clone())
            .client_auth(ClientAuth::tls_client_auth("gateway"));
        if is_told {
            endpoint = endpoint.client_certificate(certificate.clone());
        }
        let strategy = ClientCredentials::builder(endpoint.build().unwrap())
            .resource(BACKEND)
            .cache(cache.clone())
            .build()
            .unwrap();
        let origin = Origin::try_from(backend.uri("")).unwrap();
        let stack = AuthLayer::new(origin, strategy).layer(client);
        let request = Request::get(backend.uri("/")).body(Full::default());
        let response = stack.oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        world
            .provider
            .count("grant.success", "client_credentials")
            .await
    };
    assert_eq!(call(&first, true).await, 1);
    assert_eq!(call(&first, true).await, 1);
    assert_eq!(call(&second, true).await, 2);
    assert_eq!(call(&second, true).await, 2);
    // Nobody says which certificate these two clients present.
    assert_eq!(call(&first, false).await, 3);
    assert_eq!(call(&second, false).await, 4);
}

/// An identity provider and an authorization server for cross-app access, over TLS on loopback. An access token says which
/// certificate it was issued over, and how many there were so far.
struct CrossApp {
    authority: Authority,
    server: MutualTlsServer,
    cache: CredentialCache<IssuedToken>,
}

impl CrossApp {
    async fn start() -> Self {
        let authority = Authority::new();
        let issued = Arc::new(AtomicUsize::new(0));
        let handler = move |request: Request<Incoming>| {
            let peer = request.extensions().get::<Peer>().unwrap();
            let presented = thumbprint(peer.certificate.as_ref().unwrap());
            let answer = match request.uri().path() {
                "/idp" => json!({
                    "access_token": jwt(
                        &json!({ "typ": "oauth-id-jag+jwt" }),
                        &json!({ "iss": IDP, "aud": AS, "sub": "alice", "exp": 32_503_680_000_u64 }),
                    ),
                    "token_type": "N_A",
                    "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
                }),
                "/as" => json!({
                    "access_token": format!("{presented}.{}", issued.fetch_add(1, Relaxed) + 1),
                    "token_type": "Bearer",
                    "expires_in": 86_400,
                }),
                _ => Value::String(presented),
            };
            let body = Full::new(Bytes::from(answer.to_string()));
            std::future::ready(Response::new(server_body(body)))
        };
        Self {
            server: MutualTlsServer::start_with(&authority, true, handler).await,
            authority,
            cache: CredentialCache::builder().build().unwrap(),
        }
    }

    fn client(&self, certificate: &CertificateSource) -> HttpsClient<Full<Bytes>> {
        HttpsClient::builder()
            .authorities(&self.authority.certificate)
            .client_certificate(certificate.clone())
            .build()
            .unwrap()
    }

    fn strategy(
        &self,
        identity_provider: &CertificateSource,
        authorization_server: &CertificateSource,
    ) -> CrossAppAccess {
        let endpoint = |path, certificate: &CertificateSource| {
            TokenEndpoint::builder(self.server.uri(path), self.client(certificate))
                .client_auth(ClientAuth::tls_client_auth("gateway"))
                .client_certificate(certificate.clone())
                .build()
                .unwrap()
        };
        let identity_provider = endpoint("/idp", identity_provider);
        let authorization_server = endpoint("/as", authorization_server);
        CrossAppAccess::builder("idp", identity_provider, authorization_server)
            .audience(AS)
            .cache(self.cache.clone())
            .build()
            .unwrap()
    }

    async fn token(&self, strategy: &CrossAppAccess) -> String {
        let id_token = jwt(&json!({}), &json!({ "iss": IDP, "sub": "alice" }));
        let alice = user_with_id_token("alice", &id_token);
        token_for(strategy, alice).await.unwrap()
    }

    /// Replaces the files, and sends requests until the new certificate is presented.
    async fn rotate(&self, clock: &ManualClock, files: &Files, certificate: &CertificateSource) {
        let newer = self.authority.issue("gateway");
        files.write(&newer);
        let expected = thumbprint_of_pem(&newer.0);
        let client = self.client(certificate);
        for _ in 0..1000 {
            clock.advance(Duration::from_secs(2));
            let request = Request::get(self.server.uri("/")).body(Full::default());
            let response = client.clone().oneshot(request.unwrap()).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if body == format!("\"{expected}\"") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the new certificate is not presented");
    }
}

#[tokio::test]
async fn cross_app_access_keeps_a_token_as_long_as_the_authorization_servers_certificate() {
    let world = CrossApp::start().await;
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _default = DefaultClock::set(clock.clone());
    let pairs = [0; 2].map(|_| world.authority.issue("gateway"));
    let [idp_files, as_files] = pairs.each_ref().map(Files::of);
    let read = |files: &Files| {
        CertificateSource::files(files.path("tls.crt"), files.path("tls.key")).unwrap()
    };
    let [of_idp, of_as] = [&idp_files, &as_files].map(read);
    let strategy = world.strategy(&of_idp, &of_as);
    let first = world.token(&strategy).await;
    assert_eq!(first, format!("{}.1", thumbprint_of_pem(&pairs[1].0)));

    world.rotate(&clock, &idp_files, &of_idp).await;
    assert_eq!(world.token(&strategy).await, first);

    world.rotate(&clock, &as_files, &of_as).await;
    let second = world.token(&strategy).await;
    let newer = fs::read_to_string(as_files.path("tls.crt")).unwrap();
    assert_eq!(second, format!("{}.2", thumbprint_of_pem(&newer)));
    assert_eq!(world.token(&strategy).await, second);
}

#[tokio::test]
async fn cross_app_access_shares_no_token_unless_both_certificates_are_the_same() {
    let world = CrossApp::start().await;
    let pairs = [0; 2].map(|_| world.authority.issue("gateway"));
    let [one, other] = pairs.each_ref().map(source);
    let [of_one, of_other] = pairs.each_ref().map(|(pem, _)| thumbprint_of_pem(pem));
    for (of_idp, of_as, expected) in [
        (&one, &one, format!("{of_one}.1")),
        (&one, &one, format!("{of_one}.1")),
        (&one, &other, format!("{of_other}.2")),
        (&other, &one, format!("{of_one}.3")),
        (&one, &other, format!("{of_other}.2")),
    ] {
        let strategy = world.strategy(of_idp, of_as);
        assert_eq!(world.token(&strategy).await, expected);
    }
}

#[tokio::test]
async fn the_form_has_the_clients_id_and_no_secret_and_the_client_counts_as_confidential() {
    let issuer = Issuer::start().await;
    for client_auth in [
        ClientAuth::tls_client_auth("gateway"),
        ClientAuth::self_signed_tls_client_auth("gateway"),
    ] {
        let shown = format!("{client_auth:?}");
        assert!(shown.contains("tls_client_auth"), "{shown}");
        let endpoint = endpoint_builder(&issuer).client_auth(client_auth);
        let endpoint = endpoint.build().unwrap();
        endpoint
            .request_token(TokenRequest::client_credentials())
            .await
            .unwrap();
        let sent = issuer.requests().pop().unwrap();
        assert_eq!(sent.all("client_id"), ["gateway"]);
        for absent in ["client_secret", "client_assertion", "client_assertion_type"] {
            assert!(sent.all(absent).is_empty(), "{absent}");
        }
        assert!(!sent.headers.contains_key(header::AUTHORIZATION));

        let on_behalf_of = OnBehalfOf::builder(endpoint.clone()).scopes(["api"]);
        on_behalf_of.build().unwrap();
        ClientCredentials::builder(endpoint).build().unwrap();
    }
    let blank = endpoint_builder(&issuer).client_auth(ClientAuth::tls_client_auth(" "));
    let error = blank.build().unwrap_err();
    assert_eq!(
        error.invalid_settings()[0].setting(),
        "client_auth.client_id"
    );
}

#[tokio::test]
async fn an_alias_is_used_only_by_clients_with_a_certificate_and_checked_as_any_endpoint() {
    let tls = || ClientAuth::tls_client_auth("gateway");
    let public = || ClientAuth::none("gateway");
    let (conventional, alias) = ("/token", "/mtls/token");
    let at = |issuer: &str, path: &str| json!({ "token_endpoint": format!("{issuer}{path}") });
    type Aliases<'a> = &'a dyn Fn(&str) -> Value;
    let good: Aliases<'_> = &|issuer| at(issuer, alias);
    let null: Aliases<'_> = &|_| Value::Null;
    let none: Aliases<'_> = &|_| json!({ "revocation_endpoint": "https://idp.example.com/" });
    let text: Aliases<'_> = &|issuer| json!(issuer);
    let number: Aliases<'_> = &|_| json!({ "token_endpoint": 7 });
    let plain: Aliases<'_> = &|_| json!({ "token_endpoint": "http://idp.example.com/token" });
    let fragment: Aliases<'_> = &|issuer| at(issuer, "/mtls#token");
    for (aliases, client_auth, expected) in [
        (good, tls(), Some(alias)),
        (good, public(), Some(conventional)),
        (null, tls(), Some(conventional)),
        (none, tls(), Some(conventional)),
        (text, tls(), None),
        (text, public(), Some(conventional)),
        (number, tls(), None),
        (number, public(), Some(conventional)),
        (plain, tls(), None),
        (plain, public(), Some(conventional)),
        (fragment, tls(), None),
    ] {
        let server = IdentityProvider::start(P256).await;
        let issuer = server.issuer();
        let metadata = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/keys"),
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}{conventional}"),
            "mtls_endpoint_aliases": aliases(&issuer),
        });
        server.script(OPENID, 200, metadata.to_string());
        let tokens = json!({ "access_token": "new", "token_type": "Bearer" }).to_string();
        for path in [conventional, alias] {
            server.script(path, 200, tokens.clone());
        }
        let settings = ProviderSettings::discovered(&*issuer);
        let provider = OAuthProvider::builder(settings, client_auth, http_client());
        let token = UpstreamToken::new(AccessToken::new("old").unwrap());
        let old = ProviderTokens::new(token, SystemTime::now())
            .with_refresh_token(Secret::new("a-refresh-token").unwrap());
        let refreshed = provider.build().unwrap().refresh(&old, SystemTime::now());
        let refreshed = refreshed.await;
        let metadata = aliases(&issuer);
        match expected {
            Some(path) => {
                refreshed.unwrap();
                assert_eq!(server.fetches(path), 1, "{metadata}");
            }
            None => {
                let error = refreshed.unwrap_err();
                assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{metadata}");
                assert_eq!(server.fetches(conventional), 0, "{metadata}");
                assert_eq!(server.fetches(alias), 0, "{metadata}");
            }
        }
    }
}

#[tokio::test]
async fn a_configuration_names_the_client_with_the_certificate_and_how_it_is_known() {
    let Some(world) = World::start(false).await else {
        return;
    };
    let [gateway, own] = [&world.gateway, &world.own].map(source);
    let backend = world.backend().await;
    let cache = CredentialCache::<IssuedToken>::builder().build().unwrap();
    let resources = || {
        Resources::<Full<Bytes>>::builder(world.client(Some(&gateway)))
            .client_certificate("gateway", world.client(Some(&gateway)))
            .client_certificate("own", world.client(Some(&own)))
            .client_certificate_source("own", own.clone())
            .token_cache(cache.clone())
            .build()
            .unwrap()
    };
    let entry = |client: &str, certificate: Value| {
        json!({
            "type": "client_credentials",
            "clientCredentials": {
                "tokenUrl": world.provider.token_endpoint(),
                "clientId": client,
                "clientCertificate": certificate,
                "resource": BACKEND,
            },
        })
    };
    let config = json!({
        "backends": {
            "named": entry("gateway", json!({ "name": "gateway" })),
            "own": entry(
                "own",
                json!({ "name": "own", "method": "self_signed_tls_client_auth" }),
            ),
            "default": entry("gateway", json!({ "method": "tls_client_auth" })),
        },
    });
    let config: OutgoingAuthConfig = serde_json::from_value(config).unwrap();
    let origin = Origin::try_from(backend.uri("")).unwrap();
    let (first, another) = (resources(), resources());
    let provider = &world.provider;
    for (resources, issued) in [
        (&first, 3),
        // The configuration after a reload: the tokens of the first serve it.
        (&first, 3),
        // Only of one of these clients is it known that it presents the same certificate.
        (&another, 5),
    ] {
        for (name, certificate, status) in [
            ("named", Some(&gateway), StatusCode::OK),
            ("default", Some(&gateway), StatusCode::OK),
            // The backend takes certificates of the authority alone.
            ("own", None, StatusCode::UNAUTHORIZED),
        ] {
            let layer = config.layer_for(name, origin.clone(), resources).unwrap();
            let client = layer.layer(world.client(certificate));
            let request = Request::get(backend.uri("/")).body(Full::default());
            let response = client.oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{name}");
        }
        let so_far = provider.count("grant.success", "client_credentials").await;
        assert_eq!(so_far, issued);
    }

    let twice = Resources::<Full<Bytes>>::builder(world.client(None))
        .client_certificate("gateway", world.client(Some(&gateway)))
        .client_certificate("gateway", world.client(Some(&gateway)))
        .client_certificate(" ", world.client(Some(&gateway)))
        .client_certificate_source("nobody", gateway);
    let error = twice.build().unwrap_err();
    let settings = error.invalid_settings().iter();
    let settings: Vec<_> = settings.map(|invalid| invalid.setting()).collect();
    assert_eq!(
        settings,
        [
            "client_certificate[1]",
            "client_certificate[2]",
            "client_certificate_source[0]"
        ]
    );
}
