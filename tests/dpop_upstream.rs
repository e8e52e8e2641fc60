//! Users' tokens at other providers that are bound to a key (DPoP, RFC 9449): linked, stored and refreshed with it.

mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::{
    dpop::{Asked, URL, issued, json_answer, part, refused, verified},
    linking::{BASE, Browser, GATEWAY, Page, USERS, owner, query, user},
    oidc_provider::OidcProvider,
    redis::RedisServer,
};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_identity::{
    AccessToken, AccountLinking, AuthError, AuthErrorKind, AuthLayer, ClientAuth, CrossAppAccess,
    Identity, Interaction, ManualClock, MemoryStore, Origin, RedisStore, Secret, UpstreamToken,
    UpstreamTokenStore, UpstreamTokens,
    client::hyper::https_client,
    oauth::{DpopKey, DpopKeys, TokenEndpointBuilder},
    upstream::{
        LoadedTokens, OAuthProvider, OAuthProviderBuilder, Provider, ProviderSettings,
        ProviderTokens, RefreshTokenGrant, SealingKey, TokenOwner, linking::CodeFlow,
    },
};

const BACKEND: &str = "https://backend.example.com/";
const HOUR: Duration = Duration::from_secs(3_600);

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn per_user(first: char) -> DpopKeys {
    DpopKeys::per_user(&secret(&format!("{first}123456789abcdef0123456789abcdef"))).unwrap()
}

fn thumbprint_of(keys: &DpopKeys, subject: &str) -> String {
    let key = keys.key(Some(&user(subject))).unwrap();
    key.thumbprint().to_owned()
}

// With a token endpoint in the process.

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UNIX_EPOCH + HOUR))
}

/// Tokens that were issued an hour before the clock's time, and last for this long.
fn stored(thumbprint: Option<&str>, lifetime: Duration) -> ProviderTokens {
    let token = UpstreamToken::new(AccessToken::new("old").unwrap());
    let token = token.with_expires_at(UNIX_EPOCH + lifetime);
    let token = match thumbprint {
        Some(thumbprint) => token.with_dpop_thumbprint(thumbprint),
        None => token,
    };
    ProviderTokens::new(token, UNIX_EPOCH).with_refresh_token(secret("refresh-token"))
}

/// The tokens of a user in this store, refreshed at an endpoint with these settings.
async fn load(
    store: &Arc<MemoryStore>,
    asked: &Asked,
    owner: &TokenOwner,
    settings: impl FnOnce(TokenEndpointBuilder) -> TokenEndpointBuilder,
) -> LoadedTokens {
    let endpoint = settings(asked.endpoint(URL)).build().unwrap();
    let provider = Provider::builder("idp", RefreshTokenGrant::new(endpoint));
    let providers = [provider.build().unwrap()];
    let upstream = UpstreamTokens::new(Arc::clone(store), providers).clock(clock());
    upstream.load(owner).await.unwrap()
}

#[tokio::test]
async fn each_users_tokens_are_refreshed_with_their_own_key_and_stay_bound_to_it() {
    let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
    let keys = per_user('0');
    let mut thumbprints = Vec::new();
    for subject in ["alice", "bob"] {
        let (owner, thumbprint) = (owner(subject), thumbprint_of(&keys, subject));
        let tokens = stored(Some(&thumbprint), HOUR);
        // The tokens of a session have the key of its user.
        for owner in [owner.clone(), owner.with_session("session-1")] {
            store.put(&owner, "idp", &tokens).await.unwrap();
            let loaded = load(&store, &asked, &owner, |builder| builder.dpop(keys.clone())).await;
            let token = &loaded.tokens()["idp"];
            assert_eq!(token.access_token().expose(), "bound");
            assert_eq!(token.dpop_thumbprint(), Some(&*thumbprint));
            let stored = store.load(&owner).await.unwrap();
            let stored = stored["idp"].tokens();
            assert_eq!(stored.token().dpop_thumbprint(), Some(&*thumbprint));
            assert_eq!(stored.refresh_token().unwrap().expose(), "refresh-token");
            thumbprints.push(thumbprint.clone());
        }
    }
    if let Some(verified) = verified(&asked.proofs()) {
        let of_proofs: Vec<_> = verified.iter().map(|proof| &proof["thumbprint"]).collect();
        assert_eq!(of_proofs, thumbprints.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn tokens_whose_key_is_gone_ask_for_a_login_and_are_neither_sent_nor_removed() {
    let here = per_user('0');
    let of_alice = thumbprint_of(&here, "alice");
    let of_bob = thumbprint_of(&here, "bob");
    let gone = DpopKey::generate().unwrap().thumbprint().to_owned();
    let keys = |keys: DpopKeys| -> Settings { Box::new(move |builder| builder.dpop(keys.clone())) };
    let any = || DpopKeys::from(DpopKey::generate().unwrap());
    let cases: Vec<(&str, Settings)> = vec![
        (&gone, keys(here.clone())),
        // The key of another user is none for these tokens.
        (&of_bob, keys(here.clone())),
        (&of_alice, keys(per_user('1'))),
        (&of_alice, keys(any())),
        (&of_alice, Box::new(|builder| builder)),
        (&of_alice, Box::new(|builder| builder.allow_bearer_tokens())),
        (
            &of_alice,
            Box::new(move |builder| builder.dpop(any()).allow_bearer_tokens()),
        ),
        ("", keys(here.clone())),
    ];
    for (thumbprint, settings) in &cases {
        // An access token that is still good is of no use without its key, either.
        for lifetime in [HOUR, 3 * HOUR] {
            let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
            let alice = owner("alice");
            let tokens = stored(Some(thumbprint), lifetime);
            store.put(&alice, "idp", &tokens).await.unwrap();
            let version = store.load(&alice).await.unwrap()["idp"].version();

            let loaded = load(&store, &asked, &alice, settings).await;
            assert!(loaded.tokens().is_empty(), "{thumbprint}");
            let error = &loaded.login_required()["idp"];
            assert!(error.to_string().contains("key"), "{error}");
            let interaction = error.interaction();
            assert!(matches!(interaction, Some(Interaction::LinkAccount { .. })));
            assert!(asked.requests().is_empty(), "the refresh token was sent");
            // Another replica may have the key.
            let kept = store.load(&alice).await.unwrap();
            assert_eq!(kept["idp"].version(), version);
        }
    }
}

type Settings = Box<dyn Fn(TokenEndpointBuilder) -> TokenEndpointBuilder>;

#[tokio::test]
async fn tokens_from_before_are_bound_at_their_next_refresh() {
    let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
    let keys = per_user('0');
    let alice = owner("alice");
    store.put(&alice, "idp", &stored(None, HOUR)).await.unwrap();
    let loaded = load(&store, &asked, &alice, |builder| builder.dpop(keys.clone())).await;
    let thumbprint = thumbprint_of(&keys, "alice");
    assert_eq!(loaded.tokens()["idp"].dpop_thumbprint(), Some(&*thumbprint));
}

#[tokio::test]
async fn a_bearer_token_that_is_allowed_is_bound_to_nothing() {
    let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
    let keys = per_user('0');
    let alice = owner("alice");
    let thumbprint = thumbprint_of(&keys, "alice");
    let tokens = stored(Some(&thumbprint), HOUR);
    store.put(&alice, "idp", &tokens).await.unwrap();
    asked.answer(issued("Bearer"));
    let settings = |builder: TokenEndpointBuilder| builder.dpop(keys).allow_bearer_tokens();
    let loaded = load(&store, &asked, &alice, settings).await;
    assert_eq!(loaded.tokens()["idp"].dpop_thumbprint(), None);
    assert_eq!(asked.proofs().len(), 1);
}

#[tokio::test]
async fn the_refresh_token_of_a_public_client_is_sent_with_its_own_key_although_its_access_token_has_none()
 {
    let alice = owner("alice");
    let client = |confidential: bool| match confidential {
        true => ClientAuth::post("gateway", secret("7Fjfp0ZBr1KtDRbnfVdmIw")),
        false => ClientAuth::none("gateway"),
    };
    let settings = |confidential: bool, keys: DpopKeys| {
        move |builder: TokenEndpointBuilder| {
            let builder = builder.client_auth(client(confidential));
            builder.dpop(keys).allow_bearer_tokens()
        }
    };
    for confidential in [false, true] {
        let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
        store.put(&alice, "idp", &stored(None, HOUR)).await.unwrap();
        let answer = |refresh_token: Value| {
            let answer = json!({ "access_token": "bearer", "token_type": "Bearer", "expires_in": 0,
                "refresh_token": refresh_token });
            json_answer(200, &answer)
        };
        let spoiled = |refresh_token: &str| {
            let answer = json!({ "access_token": "x", "token_type": "other", "refresh_token": refresh_token });
            json_answer(200, &answer)
        };
        // The first and the fourth have nothing that can be used but another refresh token, the third keeps it.
        asked.answer(spoiled("first"));
        asked.answer(answer(json!("second")));
        asked.answer(answer(Value::Null));
        asked.answer(spoiled("fourth"));
        asked.answer(answer(json!("fifth")));
        for answers in 1..=5 {
            let settings = settings(confidential, per_user('0'));
            load(&store, &asked, &alice, settings).await;
            assert_eq!(asked.requests().len(), answers);
            let kept = store.load(&alice).await.unwrap();
            let thumbprint = kept["idp"].tokens().refresh_thumbprint().map(str::to_owned);
            let expected = (!confidential).then(|| thumbprint_of(&per_user('0'), "alice"));
            assert_eq!(thumbprint, expected, "{answers}");
            assert_eq!(kept["idp"].tokens().token().dpop_thumbprint(), None);
        }

        let version = store.load(&alice).await.unwrap()["idp"].version();
        let settings = settings(confidential, per_user('1'));
        let loaded = load(&store, &asked, &alice, settings).await;
        if confidential {
            // It is bound to the client, which has a secret.
            assert_eq!(asked.requests().len(), 6, "{loaded:?}");
            continue;
        }
        let error = &loaded.login_required()["idp"];
        assert!(error.to_string().contains("key"), "{error}");
        assert_eq!(asked.requests().len(), 5, "the refresh token was sent");
        // Another replica may have the key.
        let kept = store.load(&alice).await.unwrap();
        assert_eq!(kept["idp"].version(), version);
    }
}

#[tokio::test]
async fn a_bearer_token_is_used_to_its_end_although_the_key_of_its_refresh_token_is_gone() {
    let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
    let alice = owner("alice");
    let lasting = SystemTime::now() + HOUR;
    for (expires_at, is_used) in [(lasting, true), (UNIX_EPOCH + HOUR, false)] {
        let token = UpstreamToken::new(AccessToken::new("bearer").unwrap());
        let tokens = ProviderTokens::new(token.with_expires_at(expires_at), UNIX_EPOCH)
            .with_refresh_token(secret("refresh-token"))
            .with_refresh_thumbprint(thumbprint_of(&per_user('0'), "alice"));
        store.put(&alice, "idp", &tokens).await.unwrap();
        let settings = |builder: TokenEndpointBuilder| {
            let builder = builder.client_auth(ClientAuth::none("gateway"));
            builder.dpop(per_user('1')).allow_bearer_tokens()
        };
        let loaded = load(&store, &asked, &alice, settings).await;
        assert_eq!(loaded.tokens().contains_key("idp"), is_used, "{loaded:?}");
        assert_eq!(loaded.login_required().contains_key("idp"), !is_used);
    }
    assert!(asked.requests().is_empty(), "the refresh token was sent");
}

#[tokio::test]
async fn a_refresh_token_that_the_provider_refuses_is_removed_as_any_other() {
    let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
    let keys = per_user('0');
    let alice = owner("alice");
    let tokens = stored(Some(&thumbprint_of(&keys, "alice")), HOUR);
    store.put(&alice, "idp", &tokens).await.unwrap();
    asked
        .answer(refused(400, "use_dpop_nonce", &[b"nonce"]))
        .answer(refused(400, "invalid_grant", &[]));
    let loaded = load(&store, &asked, &alice, |builder| builder.dpop(keys)).await;
    assert!(loaded.login_required().contains_key("idp"));
    assert!(store.load(&alice).await.unwrap().is_empty());
    assert_eq!(asked.requests().len(), 2);
}

#[tokio::test]
async fn a_refresh_token_that_is_exchanged_elsewhere_is_presented_with_its_own_key_or_not_at_all() {
    let keys = per_user('0');
    let of_alice = thumbprint_of(&keys, "alice");
    let of_login = keys.key(None).unwrap().thumbprint().to_owned();
    for (thumbprint, keys_there, is_sent) in [
        (&of_alice, Some(per_user('0')), true),
        (&of_login, Some(per_user('0')), true),
        (&of_alice, Some(per_user('1')), false),
        (&of_alice, None, false),
    ] {
        let (store, asked) = (Arc::new(MemoryStore::new()), Asked::default());
        let alice = owner("alice");
        let tokens = stored(Some(thumbprint), 3 * HOUR);
        store.put(&alice, "idp", &tokens).await.unwrap();
        let refresh = asked.endpoint(URL).dpop(keys.clone()).build().unwrap();
        let provider = Provider::builder("idp", RefreshTokenGrant::new(refresh));
        let providers = [provider.build().unwrap()];
        let upstream = UpstreamTokens::new(Arc::clone(&store), providers).clock(clock());

        let idp = asked.endpoint(URL);
        let idp = match keys_there {
            Some(keys) => idp.dpop(keys),
            None => idp,
        };
        let server = Asked::default().endpoint("https://as.example.com/token");
        let [idp, server] = [idp, server].map(|endpoint| endpoint.build().unwrap());
        let strategy = CrossAppAccess::builder("idp", idp, server)
            .audience("https://as.example.com")
            .issuer("https://idp.example.com")
            .refresh_token_of(upstream)
            .build()
            .unwrap();
        let backend = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, BoxError>(http::Response::new(Full::<Bytes>::default()))
        });
        let origin = Origin::try_from(BACKEND.trim_end_matches('/')).unwrap();
        let client = AuthLayer::new(origin, strategy).layer(backend);
        let mut request = Request::get(BACKEND).body(Full::default()).unwrap();
        let token = UpstreamToken::new(AccessToken::new("old").unwrap());
        let identity = Identity::builder("alice").issuer(USERS);
        let identity = identity.upstream("idp", token).build().unwrap();
        request.extensions_mut().insert(identity);
        // What is issued is no assertion.
        let error = client.oneshot(request).await.unwrap_err();
        let error = AuthError::find_in(&*error).unwrap();
        let kind = match is_sent {
            true => AuthErrorKind::Unavailable,
            false => AuthErrorKind::Configuration,
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(asked.requests().len(), usize::from(is_sent));
        if let (true, Some(verified)) = (is_sent, verified(&asked.proofs())) {
            assert_eq!(verified[0]["thumbprint"], **thumbprint);
        }
        assert!(store.load(&alice).await.unwrap().contains_key("idp"));
    }
}

// With npm's oidc-provider.

async fn provider(dpop: Value) -> Option<OidcProvider> {
    OidcProvider::start(json!({
        "clients": [{
            "client_id": "public",
            "token_endpoint_auth_method": "none",
            "redirect_uris": [format!("{BASE}/link/callback/idp"), format!("{GATEWAY}/callback")],
        }],
        "resources": { BACKEND: { "audience": "backend", "scope": "read write" } },
        "dpop": dpop,
    }))
    .await
}

type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;

/// A client to which the provider says that it issues bearer tokens. It binds refresh tokens as before.
fn told_of_bearer_tokens() -> Client {
    let client = https_client::<Full<Bytes>>().unwrap();
    let client = service_fn(move |request| {
        let asked = client.clone().oneshot(request);
        async move {
            let (head, body) = asked.await?.into_parts();
            let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
            let body = body.replace(r#""token_type":"DPoP""#, r#""token_type":"Bearer""#);
            Ok::<_, BoxError>(Response::from_parts(head, Full::from(body)))
        }
    });
    BoxCloneSyncService::new(client)
}

/// One replica of a gateway.
struct Replica {
    idp: OAuthProvider,
    linking: AccountLinking,
    upstream: UpstreamTokens,
    clock: Arc<ManualClock>,
}

impl Replica {
    fn new<S>(
        provider: &OidcProvider,
        store: S,
        set: impl FnOnce(OAuthProviderBuilder) -> OAuthProviderBuilder,
    ) -> Self
    where
        S: UpstreamTokenStore + 'static,
    {
        let client = https_client::<Full<Bytes>>().unwrap();
        let settings = Self::settings(provider);
        let idp = OAuthProvider::builder(settings, ClientAuth::none("public"), client);
        Self::of(set(idp), store)
    }

    fn settings(provider: &OidcProvider) -> ProviderSettings {
        ProviderSettings::discovered(provider.issuer())
            .scopes(["openid", "read"])
            .parameter("login_hint", "alice-at-idp")
            .resource(BACKEND)
    }

    fn of<S>(idp: OAuthProviderBuilder, store: S) -> Self
    where
        S: UpstreamTokenStore + 'static,
    {
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let idp = idp.clock(clock.clone()).build().unwrap();
        let providers = [idp.provider("idp").build().unwrap()];
        let upstream = UpstreamTokens::new(store, providers).clock(clock.clone());
        Self {
            idp,
            linking: AccountLinking::builder(BASE, upstream.clone())
                .build()
                .unwrap(),
            upstream,
            clock,
        }
    }

    async fn start(&self, browser: &mut Browser) -> Page {
        let url = format!("{BASE}/link/idp");
        browser.get(&self.linking, &url).await
    }

    async fn token(&self, subject: &str) -> UpstreamToken {
        let loaded = self.upstream.load(&owner(subject)).await.unwrap();
        let token = loaded.tokens().get("idp");
        token.unwrap_or_else(|| panic!("{loaded:?}")).clone()
    }
}

fn sealing_key() -> SealingKey {
    SealingKey::new([7; 32])
}

/// The key that the provider bound a token to, which is what our side notes of it.
fn bound_to(token: &UpstreamToken) -> String {
    let bound = part(token.access_token().expose(), 1)["cnf"]["jkt"].take();
    assert_eq!(bound, token.dpop_thumbprint().unwrap());
    bound.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_linked_account_is_bound_to_its_users_key_on_all_replicas_with_the_same_secret() {
    for nonce in [false, true] {
        let provider = provider(json!({ "nonce": nonce })).await;
        let (Some(provider), Some(redis)) = (provider, RedisServer::start()) else {
            return;
        };
        let store = || {
            let store = RedisStore::builder(redis.url(), sealing_key());
            let store = store.response_limit(Duration::from_secs(20));
            store.build().unwrap()
        };
        let replica = |keys: DpopKeys| Replica::new(&provider, store(), |idp| idp.dpop(keys));
        let [first, second] = [replica(per_user('0')), replica(per_user('0'))];
        let stranger = replica(per_user('1'));

        let thumbprint = thumbprint_of(&per_user('0'), "alice");
        let mut alice = Browser::of("alice");
        let start = first.start(&mut alice).await;
        assert_eq!(query(start.location())["dpop_jkt"], thumbprint);
        let back = provider.browse(start.location()).await;
        // Another replica finishes what the first one began.
        let page = alice.get(&second.linking, &back).await;
        assert_eq!(page.location(), BASE);
        let token = first.token("alice").await;
        assert_eq!(bound_to(&token), thumbprint);

        for replica in [&first, &second, &stranger] {
            replica.clock.advance(2 * HOUR);
        }
        let refused = stranger.upstream.load(&owner("alice")).await.unwrap();
        assert!(refused.login_required().contains_key("idp"), "{refused:?}");
        let refreshed = second.token("alice").await;
        assert_ne!(
            refreshed.access_token().expose(),
            token.access_token().expose()
        );
        assert_eq!(bound_to(&refreshed), thumbprint);

        for grant in ["authorization_code", "refresh_token"] {
            let errors = provider.count("grant.error", grant).await;
            let nonces = provider.errors("use_dpop_nonce", grant).await;
            assert_eq!(errors, nonces, "a {grant} was sent with another key");
        }
        assert_eq!(provider.count("grant.success", "refresh_token").await, 1);
    }
}

/// RFC 9449 §5: a provider may bind the refresh token of a public client alone.
#[tokio::test]
async fn a_refresh_token_that_alone_is_bound_is_not_spent_by_a_replica_with_another_key() {
    let (Some(provider), Some(redis)) = (provider(json!({})).await, RedisServer::start()) else {
        return;
    };
    let replica = |first| {
        let store = RedisStore::builder(redis.url(), sealing_key());
        let store = store.response_limit(Duration::from_secs(20));
        let settings = Replica::settings(&provider);
        let client = ClientAuth::none("public");
        let idp = OAuthProvider::builder(settings, client, told_of_bearer_tokens());
        let idp = idp.dpop(per_user(first)).allow_bearer_tokens();
        Replica::of(idp, store.build().unwrap())
    };
    let [first, stranger] = [replica('0'), replica('1')];
    let mut alice = Browser::of("alice");
    let start = first.start(&mut alice).await;
    let back = provider.browse(start.location()).await;
    alice.get(&first.linking, &back).await;
    let token = first.token("alice").await;
    assert_eq!(token.dpop_thumbprint(), None);

    for replica in [&first, &stranger] {
        replica.clock.advance(2 * HOUR);
    }
    let refused = stranger.upstream.load(&owner("alice")).await.unwrap();
    assert!(refused.login_required().contains_key("idp"), "{refused:?}");
    let refreshed = first.token("alice").await;
    assert_ne!(
        refreshed.access_token().expose(),
        token.access_token().expose()
    );
    assert_eq!(provider.count("grant.error", "refresh_token").await, 0);
    assert_eq!(provider.count("grant.success", "refresh_token").await, 1);
}

#[tokio::test]
async fn a_code_is_of_no_use_to_a_replica_with_another_key() {
    let Some(provider) = provider(json!({})).await else {
        return;
    };
    let store = Arc::new(MemoryStore::new());
    let replica = || {
        let key = DpopKey::generate().unwrap();
        Replica::new(&provider, Arc::clone(&store), |idp| idp.dpop(key))
    };
    let [first, second] = [replica(), replica()];
    let mut alice = Browser::of("alice");
    let start = first.start(&mut alice).await;
    let back = provider.browse(start.location()).await;
    let page = alice.get(&second.linking, &back).await;
    assert!(
        page.status.is_client_error() || page.status.is_server_error(),
        "{page:?}"
    );
    assert_eq!(
        provider.errors("invalid_grant", "authorization_code").await,
        1
    );
    assert!(store.load(&owner("alice")).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_algorithm_that_the_providers_metadata_does_not_have_is_told_before_the_user_leaves() {
    let Some(provider) = provider(json!({ "algorithms": ["EdDSA"] })).await else {
        return;
    };
    let key = DpopKey::generate().unwrap();
    let replica = Replica::new(&provider, MemoryStore::new(), |idp| idp.dpop(key));
    let page = replica.start(&mut Browser::of("alice")).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR, "{page:?}");
    let pem = secret(support::key_pair::ED25519.pem);
    let key = DpopKey::from_pem(tower_identity::oauth::SigningAlgorithm::EdDsa, &pem).unwrap();
    let replica = Replica::new(&provider, MemoryStore::new(), |idp| idp.dpop(key));
    let page = replica.start(&mut Browser::of("alice")).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
}

#[tokio::test]
async fn a_provider_without_dpop_links_only_where_bearer_tokens_are_allowed() {
    let Some(provider) = provider(Value::Null).await else {
        return;
    };
    for allowed in [false, true] {
        let replica = Replica::new(&provider, MemoryStore::new(), |idp| {
            let idp = idp.dpop(per_user('0'));
            if allowed {
                idp.allow_bearer_tokens()
            } else {
                idp
            }
        });
        let mut alice = Browser::of("alice");
        let start = replica.start(&mut alice).await;
        let back = provider.browse(start.location()).await;
        let page = alice.get(&replica.linking, &back).await;
        assert_eq!(page.status == StatusCode::SEE_OTHER, allowed, "{page:?}");
        let loaded = replica.upstream.load(&owner("alice")).await.unwrap();
        assert_eq!(loaded.tokens().len(), usize::from(allowed));
        for token in loaded.tokens().values() {
            assert_eq!(token.dpop_thumbprint(), None);
        }
    }
}

#[tokio::test]
async fn a_login_has_a_key_before_it_is_known_who_the_user_is_and_its_tokens_keep_it() {
    let Some(provider) = provider(json!({ "nonce": true })).await else {
        return;
    };
    let store = Arc::new(MemoryStore::new());
    let keys = per_user('0');
    let replica = Replica::new(&provider, Arc::clone(&store), |idp| idp.dpop(keys.clone()));
    let redirect_uri = format!("{GATEWAY}/callback");
    let flow = CodeFlow::new(replica.idp.clone(), redirect_uri, Arc::clone(&store)).unwrap();
    let response = flow.start(&HeaderMap::new(), None, "/").await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    let back: Uri = provider.browse(location).await.parse().unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    let mut headers = HeaderMap::new();
    let (cookie, _) = cookie.split_once(';').unwrap();
    headers.insert("cookie", cookie.parse().unwrap());
    let finished = flow.finish(&back, &headers, None).await.unwrap();
    let of_login = keys.key(None).unwrap().thumbprint().to_owned();
    assert_eq!(bound_to(finished.tokens().token()), of_login);

    let alice = TokenOwner::new(USERS, "alice").unwrap();
    store.put(&alice, "idp", finished.tokens()).await.unwrap();
    replica.clock.advance(2 * HOUR);
    let refreshed = replica.token("alice").await;
    assert_eq!(bound_to(&refreshed), of_login);
    assert_eq!(provider.count("grant.success", "refresh_token").await, 1);
}
