//! Linking accounts at a provider that nobody here wrote, npm's oidc-provider, through replicas that share a real Redis.
#![cfg(all(
    feature = "linking",
    feature = "redis",
    feature = "hyper",
    feature = "private-key-jwt"
))]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use support::{
    http_server::{HttpServer, server_body},
    key_pair::P256,
    linking::{BASE, Browser, GATEWAY, Page, USERS, owner},
    oidc_provider::OidcProvider,
    redis::RedisServer,
};
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AccountLinking, AuthError, AuthErrorKind, AuthLayer, ClientAuth, Interaction, KeySet,
    ManualClock, MemoryStore, Origin, RedisStore, Secret, TokenValidator, UpstreamInject,
    UpstreamTokenStore, UpstreamTokens,
    client::hyper::https_client,
    oauth::{
        JwtSigner, PrivateKeyJwt, PrivateKeyJwtBuilder, SigningAlgorithm, SigningFuture,
        SigningKeys,
    },
    upstream::{
        LoadedTokens, OAuthProvider, ProviderSettings, SealingKey, linking::ClientMetadata,
    },
};

const BACKEND: &str = "https://backend.example.com/";
const SECRET: &str = "a b+c%d:/?&=";
const HOUR: Duration = Duration::from_secs(3600);

async fn provider() -> Option<OidcProvider> {
    provider_with(json!(null)).await
}

/// `documents` is where the documents of clients are that are known by a URL.
async fn provider_with(documents: Value) -> Option<OidcProvider> {
    let redirect_uris = [format!("{BASE}/link/callback/idp")];
    OidcProvider::start(json!({
        "clients": [
            {
                "client_id": "public",
                "token_endpoint_auth_method": "none",
                "redirect_uris": redirect_uris,
            },
            { "client_id": "basic", "client_secret": SECRET, "redirect_uris": redirect_uris },
            {
                "client_id": "post",
                "client_secret": SECRET,
                "token_endpoint_auth_method": "client_secret_post",
                "redirect_uris": redirect_uris,
            },
            { "client_id": "another", "token_endpoint_auth_method": "none" },
        ],
        "resources": {
            BACKEND: { "audience": "backend", "scope": "read write" },
        },
        "documents": documents,
    }))
    .await
}

/// One replica of a gateway.
struct Replica {
    linking: AccountLinking,
    upstream: UpstreamTokens,
    clock: Arc<ManualClock>,
}

impl Replica {
    fn new<S>(provider: &OidcProvider, client_auth: ClientAuth, user: &str, store: S) -> Self
    where
        S: UpstreamTokenStore + 'static,
    {
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let mut settings = ProviderSettings::discovered(provider.issuer())
            .scopes(["openid", "read"])
            .resource(BACKEND);
        if !user.is_empty() {
            // Whom the provider logs in, without a page.
            settings = settings.parameter("login_hint", user.to_owned());
        }
        let client = https_client::<Full<Bytes>>().unwrap();
        let idp = OAuthProvider::builder(settings, client_auth, client)
            .clock(clock.clone())
            .build()
            .unwrap();
        let idp = idp.provider("idp").build().unwrap();
        let upstream = UpstreamTokens::new(store, [idp]).clock(clock.clone());
        Self {
            linking: AccountLinking::builder(BASE, upstream.clone())
                .build()
                .unwrap(),
            upstream,
            clock,
        }
    }

    async fn load(&self, user: &str) -> LoadedTokens {
        self.upstream.load(&owner(user)).await.unwrap()
    }

    /// The token for a call of this user.
    async fn token(&self, user: &str) -> String {
        let loaded = self.load(user).await;
        let token = loaded.tokens().get("idp");
        let token = token.unwrap_or_else(|| panic!("{loaded:?}"));
        token.access_token().expose().to_owned()
    }

    async fn start(&self, browser: &mut Browser) -> Page {
        let page = browser
            .get(&self.linking, &format!("{BASE}/link/idp"))
            .await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
        page
    }

    async fn link(&self, browser: &mut Browser, provider: &OidcProvider) -> Page {
        let start = self.start(browser).await;
        let back = provider.browse(start.location()).await;
        browser.get(&self.linking, &back).await
    }
}

fn public() -> ClientAuth {
    ClientAuth::none("public")
}

fn key() -> SealingKey {
    SealingKey::new([7; 32])
}

fn shared_store(redis: &RedisServer) -> RedisStore {
    let store = RedisStore::builder(redis.url(), key());
    store
        .response_limit(Duration::from_secs(20))
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_linked_account_gives_each_call_a_fresh_token_until_it_is_unlinked() {
    let Some(provider) = provider().await else {
        return;
    };
    let secret = || Secret::new(SECRET).unwrap();
    for client_auth in [
        public(),
        ClientAuth::basic("basic", secret()),
        ClientAuth::post("post", secret()),
    ] {
        let client = https_client::<Full<Bytes>>().unwrap();
        let backend = TokenValidator::builder(provider.issuer(), client)
            .audience("backend")
            .build()
            .unwrap();
        let replica = Replica::new(&provider, client_auth, "alice-at-idp", MemoryStore::new());
        let loaded = replica.load("alice").await;
        assert!(loaded.login_required().contains_key("idp"), "{loaded:?}");

        let mut alice = Browser::of("alice");
        let page = replica.link(&mut alice, &provider).await;
        assert_eq!(page.location(), BASE);
        let first = replica.token("alice").await;
        let identity = backend.validate(&first).await.unwrap();
        assert_eq!(identity.subject(), "alice-at-idp");
        assert_eq!(identity.claims()["scope"], "read");

        replica.clock.advance(HOUR);
        let second = replica.token("alice").await;
        assert_ne!(second, first, "refreshed where the metadata says");
        assert_eq!(
            backend.validate(&second).await.unwrap().subject(),
            "alice-at-idp"
        );
        assert!(replica.load("bob").await.tokens().is_empty());

        let own = [("origin", GATEWAY)];
        let unlink = format!("{BASE}/unlink/idp");
        let page = alice
            .send(&replica.linking, Method::POST, &unlink, &own)
            .await;
        assert_eq!(page.location(), BASE);
        assert!(replica.load("alice").await.tokens().is_empty());
    }
    assert_eq!(provider.count("grant.error", "authorization_code").await, 0);
    assert_eq!(provider.count("grant.error", "refresh_token").await, 0);
}

#[tokio::test]
async fn a_user_who_does_not_agree_is_told_so_and_can_start_again() {
    let Some(provider) = provider().await else {
        return;
    };
    let replica = Replica::new(&provider, public(), "", MemoryStore::new());
    let mut alice = Browser::of("alice");
    let page = replica.link(&mut alice, &provider).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.text.contains("did not agree"), "{page:?}");
    assert!(
        page.text
            .contains(&format!(r#"<a href="{BASE}/link/idp">Try again</a>"#))
    );
    assert!(
        !page.text.contains("refused"),
        "nothing of what the provider said: {page:?}"
    );
    assert!(replica.load("alice").await.tokens().is_empty());
}

#[tokio::test]
async fn what_one_replica_began_another_one_finishes_once() {
    let (Some(provider), Some(redis)) = (provider().await, RedisServer::start()) else {
        return;
    };
    let replicas =
        [(); 2].map(|()| Replica::new(&provider, public(), "alice", shared_store(&redis)));
    let mut alice = Browser::of("alice");
    let start = replicas[0].start(&mut alice).await;
    let back = provider.browse(start.location()).await;
    let mut twin = alice.clone();
    let (first, second) = tokio::join!(
        alice.get(&replicas[1].linking, &back),
        twin.get(&replicas[0].linking, &back),
    );
    let mut statuses = [first.status, second.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::SEE_OTHER, StatusCode::BAD_REQUEST]);
    assert_eq!(
        provider.count("grant.success", "authorization_code").await,
        1
    );
    assert_eq!(
        replicas[0].token("alice").await,
        replicas[1].token("alice").await
    );

    // A replica with another key ring cannot open it, and one that has the old key can.
    let start = replicas[0].start(&mut alice).await;
    let back = provider.browse(start.location()).await;
    let another = RedisStore::builder(redis.url(), SealingKey::new([8; 32]));
    let stranger = Replica::new(
        &provider,
        public(),
        "alice",
        another.clone().build().unwrap(),
    );
    let page = alice.get(&stranger.linking, &back).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST, "{page:?}");
    let rotated = another.older_key(key()).build().unwrap();
    let rotated = Replica::new(&provider, public(), "alice", rotated);
    let page = alice.get(&rotated.linking, &back).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
}

#[tokio::test]
async fn a_provider_that_is_down_is_told_from_one_that_refuses_the_application() {
    let Some(provider) = provider().await else {
        return;
    };
    // This redirect URI is not registered for it, so that the provider shows its own page.
    let replica = Replica::new(
        &provider,
        ClientAuth::none("another"),
        "alice",
        MemoryStore::new(),
    );
    let mut alice = Browser::of("alice");
    replica.start(&mut alice).await;

    let replica = Replica::new(&provider, public(), "alice", MemoryStore::new());
    let start = replica.start(&mut alice).await;
    let back = provider.browse(start.location()).await;
    let wrong_secret = ClientAuth::basic("basic", Secret::new("wrong").unwrap());
    let wrong = Replica::new(&provider, wrong_secret, "alice", MemoryStore::new());
    let page = wrong.link(&mut alice, &provider).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR, "{page:?}");
    assert!(page.text.contains("administrator"), "{page:?}");

    let address = provider.issuer().trim_start_matches("http://").to_owned();
    drop(provider);
    while TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let page = alice.get(&replica.linking, &back).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{page:?}");
    assert!(page.headers.contains_key("retry-after"));
    let loaded = replica.load("alice").await;
    let needed = &loaded.login_required()["idp"];
    assert_eq!(needed.kind(), AuthErrorKind::Rejected);
}

/// What the user's call is answered: the token that the backend gets, or the page where an account is to be linked.
async fn call(validator: &TokenValidator, caller: &str) -> Result<String, (AuthErrorKind, String)> {
    let step = |error: &AuthError| match error.interaction() {
        Some(Interaction::LinkAccount {
            provider,
            url: Some(url),
            ..
        }) if provider == "idp" => (error.kind(), url.clone()),
        other => panic!("{other:?} for {error}"),
    };
    let identity = validator.validate(caller).await;
    let identity = identity.map_err(|error| step(&error))?;
    let backend = service_fn(async |request: Request<()>| {
        let token = request.headers()["authorization"].to_str().unwrap();
        Ok::<_, Infallible>(Response::new(token.to_owned()))
    });
    let inject = UpstreamInject::new("idp").unwrap();
    let origin = Origin::try_from(BACKEND).unwrap();
    let mut request = Request::get(BACKEND).body(()).unwrap();
    request.extensions_mut().insert(identity);
    let answer = AuthLayer::new(origin, inject)
        .layer(backend)
        .oneshot(request)
        .await;
    answer
        .map(Response::into_body)
        .map_err(|error| step(AuthError::find_in(&*error).unwrap()))
}

#[tokio::test]
async fn a_call_without_a_token_names_the_page_and_after_the_click_the_same_call_succeeds() {
    let Some(provider) = provider().await else {
        return;
    };
    let store = MemoryStore::new();
    let replica = Replica::new(&provider, public(), "alice-at-idp", store.clone());
    let validator = || {
        let keys = KeySet::from_json(json!({ "keys": [P256.public()] }).to_string()).unwrap();
        TokenValidator::builder_with_keys(USERS, keys)
            .audience(GATEWAY)
            .upstream_tokens(replica.linking.upstream_tokens())
            .clock(replica.clock.clone())
    };
    // One gateway refuses the caller, and the other one the call that needs the token.
    let refusing = validator().build().unwrap();
    let admitting = validator().admit_without_upstream_login().build().unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({ "iss": USERS, "sub": "alice", "aud": GATEWAY, "exp": now + 86_400 });
    let caller = P256.sign(&P256.header(), &claims);

    let mut alice = Browser::of("alice");
    for link_ended in [false, true] {
        if link_ended {
            let stored = store.load(&owner("alice")).await.unwrap();
            let refresh_token = stored["idp"].tokens().refresh_token().unwrap().expose();
            provider.revoke("public", refresh_token).await;
            replica.clock.advance(HOUR);
        }
        let page = format!("{BASE}/link/idp");
        let refused = call(&refusing, &caller).await;
        assert_eq!(refused, Err((AuthErrorKind::Rejected, page.clone())));
        let refused = call(&admitting, &caller).await;
        assert_eq!(refused, Err((AuthErrorKind::MissingToken, page.clone())));

        let start = alice.get(&replica.linking, &page).await;
        let back = provider.browse(start.location()).await;
        let linked = alice.get(&replica.linking, &back).await;
        assert_eq!(linked.location(), BASE, "{linked:?}");
        let token = replica.token("alice").await;
        for validator in [&refusing, &admitting] {
            let sent = call(validator, &caller).await;
            assert_eq!(sent, Ok(format!("Bearer {token}")));
        }
    }
}

const P256_PEM: &str = include_str!("support/keys/p256.pem");
const CLIENT_ID: &str = "https://gateway.example.com/client.json";

fn key_of_client() -> PrivateKeyJwtBuilder {
    let pem = Secret::new(P256_PEM).unwrap();
    PrivateKeyJwt::builder(SigningAlgorithm::Es256, &pem).key_id("first")
}

#[tokio::test]
async fn a_provider_that_never_heard_of_the_application_reads_its_document() {
    let document: Arc<Mutex<Option<ClientMetadata>>> = Arc::default();
    let served = document.clone();
    let pem = Secret::new(P256_PEM).unwrap();
    let keys = SigningKeys::new("first", SigningAlgorithm::Es256, &pem).unwrap();
    let jwks = keys.jwks();
    let server = HttpServer::start(move |request| {
        let (document, jwks) = (served.lock().unwrap().clone(), jwks.clone());
        async move {
            let answer = match request.uri().path() {
                "/jwks.json" => jwks.oneshot(request).await,
                _ => document.unwrap().oneshot(request).await,
            };
            answer.unwrap().map(server_body)
        }
    });
    let server = server.await;

    let private_key = || ClientAuth::private_key_jwt(CLIENT_ID, key_of_client().build().unwrap());
    for (client_auth, jwks_uri) in [
        (ClientAuth::none(CLIENT_ID), None),
        (private_key(), None),
        (private_key(), Some("https://gateway.example.com/jwks.json")),
    ] {
        // Another provider each time, because it caches documents.
        let Some(provider) = provider_with(json!(server.uri("/"))).await else {
            return;
        };
        let replica = Replica::new(&provider, client_auth, "alice-at-idp", MemoryStore::new());
        let own = replica
            .linking
            .client_metadata(CLIENT_ID, "Example gateway");
        let own = match jwks_uri {
            Some(url) => own.jwks_uri(url),
            None => own,
        };
        let own = own.build().unwrap();
        assert_eq!(own.path(), "/client.json");
        *document.lock().unwrap() = Some(own);

        let mut alice = Browser::of("alice");
        let page = replica.link(&mut alice, &provider).await;
        assert_eq!(page.location(), BASE, "{page:?}");
        let first = replica.token("alice").await;
        replica.clock.advance(HOUR);
        let second = replica.token("alice").await;
        assert_ne!(second, first, "and it is refreshed as such");
    }
    let asked_for = |path| {
        let requests = server.requests();
        requests.iter().any(|request| request.uri.path() == path)
    };
    assert!(asked_for("/client.json") && asked_for("/jwks.json"));
}

#[tokio::test]
async fn a_provider_that_reads_no_documents_is_not_asked_with_the_url_of_one() {
    // Its metadata does not say that it reads them.
    let Some(provider) = provider().await else {
        return;
    };
    let client = || https_client::<Full<Bytes>>().unwrap();
    let settings = || ProviderSettings::discovered(provider.issuer()).scopes(["openid"]);
    let builder = || OAuthProvider::builder(settings(), ClientAuth::none(CLIENT_ID), client());
    let mut alice = Browser::of("alice");
    for (idp, expected) in [
        (builder(), StatusCode::INTERNAL_SERVER_ERROR),
        // One that was registered there needs no document.
        (builder().client_is_registered(), StatusCode::SEE_OTHER),
    ] {
        let idp = idp.build().unwrap().provider("idp").build().unwrap();
        let upstream = UpstreamTokens::new(MemoryStore::new(), [idp]);
        let told = Arc::new(Mutex::new(String::new()));
        let telling = told.clone();
        let linking = AccountLinking::builder(BASE, upstream)
            .error_page(move |error| {
                *telling.lock().unwrap() = error.auth_error().unwrap().to_string();
                error.page()
            })
            .build()
            .unwrap();
        let page = alice.get(&linking, &format!("{BASE}/link/idp")).await;
        assert_eq!(page.status, expected, "{page:?}");
        let told = told.lock().unwrap();
        let is_error = expected != StatusCode::SEE_OTHER;
        let names_it = told.contains("client_id_metadata_document_supported");
        assert_eq!(names_it, is_error, "{told}");
    }
}

struct Elsewhere;

impl JwtSigner for Elsewhere {
    fn sign<'a>(&'a self, _: &'a [u8]) -> SigningFuture<'a> {
        Box::pin(async { Err("nothing is signed here".into()) })
    }
}

#[tokio::test]
async fn a_client_that_can_have_no_document_is_told_why() {
    let elsewhere = PrivateKeyJwt::with_signer(SigningAlgorithm::Es256, Elsewhere);
    let elsewhere = || ClientAuth::private_key_jwt(CLIENT_ID, elsewhere.clone().build().unwrap());
    let secret = || Secret::new(SECRET).unwrap();
    let none = ClientAuth::none;
    let jwks = Some("https://gateway.example.com/jwks.json");
    let dots = "https://gateway.example.com/a/../client.json";
    for (auths, client_id, jwks_uri, setting) in [
        (
            vec![ClientAuth::basic(CLIENT_ID, secret())],
            CLIENT_ID,
            None,
            "client_auth",
        ),
        (
            vec![none(CLIENT_ID), elsewhere()],
            CLIENT_ID,
            jwks,
            "client_auth",
        ),
        (vec![elsewhere()], CLIENT_ID, None, "client_auth"),
        (vec![elsewhere()], CLIENT_ID, Some("ftp://x"), "jwks_uri"),
        (vec![none(CLIENT_ID)], CLIENT_ID, jwks, "jwks_uri"),
        (
            vec![none(CLIENT_ID)],
            "https://gateway.example.com/another.json",
            None,
            "client_id",
        ),
        (vec![none("gateway")], "gateway", None, "client_id"),
        (
            vec![none("https://gateway.example.com")],
            "https://gateway.example.com",
            None,
            "client_id",
        ),
        (vec![none(dots)], dots, None, "client_id"),
    ] {
        let providers = auths.into_iter().enumerate().map(|(number, client_auth)| {
            let client = https_client::<Full<Bytes>>().unwrap();
            let settings = ProviderSettings::discovered("https://idp.example.com");
            let idp = OAuthProvider::builder(settings, client_auth, client)
                .build()
                .unwrap();
            idp.provider(format!("idp{number}")).build().unwrap()
        });
        let upstream = UpstreamTokens::new(MemoryStore::new(), providers);
        let linking = AccountLinking::builder(BASE, upstream).build().unwrap();
        let document = linking.client_metadata(client_id, "Example gateway");
        let document = match jwks_uri {
            Some(url) => document.jwks_uri(url),
            None => document,
        };
        let error = document.build().unwrap_err();
        let wrong = error.invalid_settings().iter();
        let wrong: Vec<_> = wrong.map(|wrong| wrong.setting()).collect();
        assert_eq!(wrong, [setting], "{client_id}: {error}");
    }
}
