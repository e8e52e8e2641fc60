//! Requests whose token is bound to a key (RFC 9449 §7 and §9): the proof, the nonce, and whose proof leaves.
#![cfg(all(feature = "dpop", feature = "incoming"))]

mod support;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    dpop::{Asked, URL, part, verified},
    key_pair::P256,
};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::follow_redirect::{
    FollowRedirect,
    policy::{PolicyExt, Standard, clone_body_fn},
};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials,
    CrossAppAccess, HeaderInjection, Identity, Interaction, OnBehalfOf, Origin, Placement, Secret,
    Strategy, TokenExchange, Unauthenticated, UpstreamInject, UpstreamToken,
    oauth::{DpopKey, DpopKeys, JwtSigner, SigningAlgorithm, SigningFuture},
    strategy::Both,
    strategy_fn,
};

type Body = Full<Bytes>;

const ORIGIN: &str = "https://mcp.example.com";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A backend in the process that keeps the heads of requests, and answers as it is told to.
#[derive(Clone, Default)]
struct Backend {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    script: Arc<Mutex<VecDeque<Response<Body>>>>,
}

#[derive(Clone, Debug)]
struct Arrived {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Arrived {
    fn authorization(&self) -> &str {
        let mut values = self.headers.get_all("authorization").iter();
        let value = values.next().unwrap().to_str().unwrap();
        assert!(values.next().is_none());
        value
    }

    fn proofs(&self) -> Vec<String> {
        let values = self.headers.get_all("dpop").iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    /// The one proof.
    fn proof(&self) -> String {
        let [proof] = &*self.proofs() else {
            panic!("not one proof: {self:?}");
        };
        assert!(self.headers["dpop"].is_sensitive());
        proof.clone()
    }

    fn claims(&self) -> Value {
        part(&self.proof(), 1)
    }

    fn nonce(&self) -> Option<String> {
        self.claims()["nonce"].as_str().map(str::to_owned)
    }
}

impl Backend {
    fn answer(&self, response: Response<Body>) -> &Self {
        self.script.lock().unwrap().push_back(response);
        self
    }

    fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    fn service<B: Send + 'static>(
        &self,
    ) -> BoxCloneSyncService<Request<B>, Response<Body>, BoxError> {
        let backend = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: Request<B>| {
            let (head, _) = request.into_parts();
            backend.arrived.lock().unwrap().push(Arrived {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
            });
            let next = backend.script.lock().unwrap().pop_front();
            async move { Ok::<_, BoxError>(next.unwrap_or_default()) }
        }))
    }

    /// Without a retry.
    fn client<A: Strategy<Body> + Clone + 'static>(&self, strategy: A) -> Client {
        let client = AuthLayer::new(origin(), strategy).layer(self.service());
        BoxCloneSyncService::new(client.map_response(|response| response.map(drop)))
    }

    fn retrying<A: Strategy<Body> + Clone + 'static>(&self, strategy: A) -> Client {
        let layer = AuthLayer::new(origin(), strategy).retry_rejected();
        let client = layer.layer(self.service());
        BoxCloneSyncService::new(client.map_response(|response| response.map(drop)))
    }
}

type Client = BoxCloneSyncService<Request<Body>, Response<()>, BoxError>;

async fn send(client: &Client, request: Request<Body>) -> Result<Response<()>, AuthError> {
    let answer = client.clone().oneshot(request).await;
    answer.map_err(|error| AuthError::find_in(&*error).unwrap().clone())
}

fn origin() -> Origin {
    Origin::try_from(ORIGIN).unwrap()
}

fn post() -> Request<Body> {
    Request::post(format!("{ORIGIN}/mcp"))
        .body(Full::from("{}"))
        .unwrap()
}

fn of(user: &Identity) -> Request<Body> {
    let mut request = post();
    request.extensions_mut().insert(user.clone());
    request
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::default()).unwrap()
}

/// What a backend answers to a proof without this nonce (RFC 9449 §9).
fn wants(nonce: &str) -> Response<Body> {
    let challenge = r#"DPoP error="use_dpop_nonce", algs="ES256""#;
    answer(
        401,
        &[("www-authenticate", challenge), ("dpop-nonce", nonce)],
    )
}

fn challenged(status: u16, challenge: &str, nonce: Option<&str>) -> Response<Body> {
    let nonce = nonce.map(|nonce| ("dpop-nonce", nonce));
    let challenge = Some(("www-authenticate", challenge));
    answer(
        status,
        &challenge.into_iter().chain(nonce).collect::<Vec<_>>(),
    )
}

fn key() -> DpopKey {
    DpopKey::generate().unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn confidential() -> ClientAuth {
    ClientAuth::basic("gateway", secret("hunter2"))
}

/// A strategy with a token that is bound to this key, of an issuer that issues `bound-1`, `bound-2` and so on.
fn application(asked: &Asked, keys: impl Into<DpopKeys>) -> ClientCredentials {
    let endpoint = asked.endpoint(URL).client_auth(confidential()).dpop(keys);
    let endpoint = endpoint.build().unwrap();
    ClientCredentials::builder(endpoint).build().unwrap()
}

fn issues(asked: &Asked, token: &str, token_type: &str) {
    let body = json!({ "access_token": token, "token_type": token_type, "expires_in": 600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
    let answer = Response::builder().header("content-type", "application/json");
    asked.answer(answer.body(Full::from(body.to_string())).unwrap());
}

fn user(subject: &str, token: &str) -> Identity {
    Identity::builder(subject)
        .issuer("https://idp.example.com")
        .token(AccessToken::new(token).unwrap())
        .build()
        .unwrap()
}

fn hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token))
}

#[tokio::test]
async fn each_request_has_a_fresh_proof_of_its_method_its_place_and_its_token() {
    let (asked, backend, key) = (Asked::default(), Backend::default(), key());
    let client = backend.client(application(&asked, key.clone()));
    let uri = "https://MCP.example.com:443/mcp/a%20b;c?query=1";
    for method in [
        Method::GET,
        Method::POST,
        Method::from_bytes(b"REPORT").unwrap(),
    ] {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header("dpop", "of-the-caller")
            .header("DPoP", "another");
        let request = request.body(Full::default()).unwrap();
        send(&client, request).await.unwrap();
    }
    let arrived = backend.arrived();
    let proofs: Vec<_> = arrived.iter().map(Arrived::proof).collect();
    for request in &arrived {
        assert_eq!(request.authorization(), "DPoP bound");
        assert!(request.headers["authorization"].is_sensitive());
        let claims = request.claims();
        assert_eq!(claims["htm"], request.method.as_str());
        assert_eq!(claims["htu"], "https://mcp.example.com/mcp/a%20b;c");
        assert_eq!(claims["ath"], hash("bound"));
        assert_eq!(claims.get("nonce"), None);
        assert_eq!(request.uri.query(), Some("query=1"));
    }
    let identifiers: BTreeSet<_> = arrived
        .iter()
        .map(|request| request.claims()["jti"].to_string())
        .collect();
    assert_eq!(identifiers.len(), 3);
    assert_eq!(asked.requests().len(), 1, "the token was not kept");
    let Some(verified) = verified(&proofs) else {
        return;
    };
    for said in verified {
        assert_eq!(said["thumbprint"], key.thumbprint(), "{said}");
        assert_eq!(said["header"]["typ"], "dpop+jwt");
    }
}

#[tokio::test]
async fn a_relative_uri_is_proven_for_the_origin_that_the_client_fixes() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let layer = AuthLayer::new(origin(), application(&asked, key())).client_fixes_origin();
    let request = Request::get("/mcp?a=b").body(Full::default()).unwrap();
    let client = layer.layer(backend.service::<Body>());
    client.oneshot(request).await.unwrap();
    assert_eq!(
        backend.arrived()[0].claims()["htu"],
        "https://mcp.example.com/mcp"
    );
}

#[tokio::test]
async fn a_proof_is_for_the_origin_of_the_layer_with_its_port() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let origin = Origin::try_from("https://[::1]:8443").unwrap();
    let layer = AuthLayer::new(origin, application(&asked, key()));
    let request = Request::get("https://[::1]:8443").header("host", "[::1]:8443");
    let client = layer.layer(backend.service::<Body>());
    client
        .oneshot(request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(backend.arrived()[0].claims()["htu"], "https://[::1]:8443/");
}

#[tokio::test]
async fn a_redirect_that_is_followed_above_the_layer_gets_another_proof() {
    let (asked, backend) = (Asked::default(), Backend::default());
    backend.answer(answer(307, &[("location", "/elsewhere?x=y")]));
    let layer = AuthLayer::new(origin(), application(&asked, key()));
    let policy = Standard::default()
        .and::<_, Body, BoxError>(clone_body_fn(|body: &Body| Some(body.clone())));
    let client = FollowRedirect::with_policy(layer.layer(backend.service::<Body>()), policy);
    client.oneshot(post()).await.unwrap();
    let places: Vec<_> = backend
        .arrived()
        .iter()
        .map(|request| request.claims()["htu"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        places,
        [format!("{ORIGIN}/mcp"), format!("{ORIGIN}/elsewhere")]
    );
}

/// Signs after it was polled once more.
struct Elsewhere(&'static str);

impl JwtSigner for Elsewhere {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            match self.0 {
                "signs" => {
                    let algorithm = jsonwebtoken::Algorithm::ES256;
                    let signature = jsonwebtoken::crypto::sign(message, &P256.private(), algorithm);
                    Ok(URL_SAFE_NO_PAD.decode(signature?)?)
                }
                fault => Err(fault.into()),
            }
        })
    }
}

fn elsewhere(signer: &'static str) -> DpopKey {
    let jwk = P256.public().to_string();
    DpopKey::with_signer(SigningAlgorithm::Es256, Elsewhere(signer), &jwk).unwrap()
}

#[tokio::test]
async fn a_request_waits_for_a_signer_that_is_elsewhere() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let strategy = application(&asked, elsewhere("signs"));
    backend.answer(wants("n-1"));
    for client in [backend.client(strategy.clone()), backend.retrying(strategy)] {
        for _ in 0..2 {
            let request = Request::get(format!("{ORIGIN}/mcp")).header("dpop", "of-the-caller");
            send(&client, request.body(Full::default()).unwrap())
                .await
                .unwrap();
        }
    }
    let arrived = backend.arrived();
    assert_eq!(arrived.len(), 4);
    let nonces: Vec<_> = arrived.iter().map(Arrived::nonce).collect();
    // Each layer has its own.
    assert_eq!(nonces, [None, Some("n-1".to_owned()), None, None]);
    let proofs: Vec<_> = arrived.iter().map(Arrived::proof).collect();
    let Some(verified) = verified(&proofs) else {
        return;
    };
    for said in verified {
        assert_eq!(said["claims"]["ath"], hash("bound"), "{said}");
    }
}

#[tokio::test]
async fn without_a_proof_nothing_is_sent() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let local = key().random(|| Err("no random numbers".into()));
    // The token endpoint takes proofs of the same key.
    for key in [elsewhere("down"), local] {
        let client = backend.client(application(&asked, key));
        let error = send(&client, post()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{error}");
    }
    let bound = AuthLayer::new(origin(), AlwaysBound(elsewhere("down")));
    let waiting = bound.layer(backend.service::<Body>()).oneshot(post());
    let error = waiting.await.unwrap_err();
    assert_eq!(
        AuthError::find_in(&*error).unwrap().backend(),
        Some(&origin())
    );
    let bound = AuthLayer::new(origin(), AlwaysBound(key().random(|| Err("none".into()))));
    let error = bound
        .layer(backend.service::<Body>())
        .oneshot(post())
        .await
        .unwrap_err();
    assert_eq!(
        AuthError::find_in(&*error).unwrap().backend(),
        Some(&origin())
    );
    assert_eq!(backend.arrived().len(), 0);
}

/// A strategy of a user of this crate.
#[derive(Clone)]
struct AlwaysBound(DpopKey);

impl<B> Strategy<B> for AlwaysBound {
    fn authenticate(&self, request: &mut Request<B>) -> tower_identity::Authenticating<B> {
        let value = "dpop the-token".parse().unwrap();
        request.headers_mut().insert("authorization", value);
        tower_identity::Authenticating::done().bound_to(self.0.clone())
    }
}

#[tokio::test]
async fn a_strategy_that_wraps_another_passes_its_key_on() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let bound = application(&asked, key());
    let wrapped = bound.clone();
    let wrapper = strategy_fn(move |mut request: Request<Body>| {
        wrapped.authenticate(&mut request).complete(request)
    });
    let api_key = HeaderInjection::new("x-api-key", "7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
    let fresh = || application(&asked, key());
    for client in [
        backend.client(wrapper.clone()),
        backend.client(Both(api_key.clone(), fresh())),
        backend.client(Both(fresh(), api_key.clone())),
        backend.client(Both(wrapper, api_key.clone())),
        backend.client(Arc::new(bound) as Arc<dyn Strategy<Body>>),
        backend.client(AlwaysBound(key())),
    ] {
        for _ in 0..2 {
            send(&client, post()).await.unwrap();
        }
    }
    for request in backend.arrived() {
        let token = request
            .authorization()
            .split_once(' ')
            .unwrap()
            .1
            .to_owned();
        assert_eq!(request.claims()["ath"], hash(&token));
    }
    assert_eq!(backend.arrived().len(), 12);
}

#[tokio::test]
async fn a_callers_proof_never_leaves_beside_a_token_of_the_strategy() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let github = UpstreamToken::new(AccessToken::new("gho_1").unwrap());
    let user = Identity::builder("alice")
        .upstream("github", github)
        .build()
        .unwrap();
    let as_caller = |name: &str| {
        let mut request = of(&user);
        request
            .headers_mut()
            .insert("authorization", "DPoP of-the-caller".parse().unwrap());
        request.headers_mut().append("dpop", name.parse().unwrap());
        request
            .headers_mut()
            .append("dpop", "second".parse().unwrap());
        request
    };
    let inject = UpstreamInject::new("github").unwrap();
    let slow = inject.clone();
    let slow = strategy_fn(move |mut request: Request<Body>| {
        slow.authenticate(&mut request).complete(request)
    });
    let endpoint = asked
        .endpoint(URL)
        .client_auth(confidential())
        .dpop(key())
        .allow_bearer_tokens();
    issues(&asked, "bearer", "Bearer");
    let bearer = ClientCredentials::builder(endpoint.build().unwrap())
        .build()
        .unwrap();
    for client in [
        backend.client(inject),
        backend.client(slow),
        backend.retrying(bearer),
    ] {
        for _ in 0..2 {
            send(&client, as_caller("of-the-caller")).await.unwrap();
        }
    }
    for request in backend.arrived() {
        assert!(
            request.authorization().starts_with("Bearer "),
            "{request:?}"
        );
        assert_eq!(request.proofs(), Vec::<String>::new());
    }
    // A request whose token is the caller's keeps the caller's proof.
    let seen = backend.arrived().len();
    send(&backend.client(Unauthenticated), as_caller("own"))
        .await
        .unwrap();
    assert_eq!(backend.arrived()[seen].proofs(), ["own", "second"]);
}

#[tokio::test]
async fn the_name_of_the_proof_is_removed_from_the_trailers() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let client = backend.client(application(&asked, key()));
    for _ in 0..2 {
        let mut request = post();
        request
            .headers_mut()
            .insert("trailer", "dpop, x-sum, Authorization".parse().unwrap());
        request
            .headers_mut()
            .insert("connection", "DPoP".parse().unwrap());
        send(&client, request).await.unwrap();
    }
    for request in backend.arrived() {
        request.proof();
        assert_eq!(request.headers["trailer"], "x-sum");
        assert_eq!(request.headers.get("connection"), None);
    }
}

#[tokio::test]
async fn without_a_retry_the_nonce_of_any_response_is_in_the_next_proof_of_all_clones() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let layer = AuthLayer::new(origin(), application(&asked, key()));
    backend
        .answer(answer(200, &[("dpop-nonce", "n-1")]))
        .answer(wants("n-2"))
        .answer(answer(500, &[("dpop-nonce", "n-3")]))
        .answer(answer(200, &[("dpop-nonce", "n-4"), ("dpop-nonce", "n-5")]))
        .answer(answer(200, &[("dpop-nonce", "with \"quotation\" marks")]))
        .answer(answer(200, &[("dpop-nonce", &"n".repeat(1025))]))
        .answer(answer(200, &[("dpop-nonce", "")]));
    for _ in 0..8 {
        let client = layer.clone().layer(backend.service::<Body>());
        client.oneshot(post()).await.unwrap();
    }
    let arrived = backend.arrived();
    let nonces: Vec<_> = arrived
        .iter()
        .map(|request| request.nonce().unwrap_or_default())
        .collect();
    assert_eq!(
        nonces,
        ["", "n-1", "n-2", "n-3", "n-3", "n-3", "n-3", "n-3"]
    );
}

#[tokio::test]
async fn a_wanted_nonce_is_sent_once_with_the_same_token() {
    for challenge in [
        r#"DPoP error="use_dpop_nonce", error_description="a nonce is needed""#,
        r#"Bearer realm="x", DPoP algs="ES256", error="use_dpop_nonce""#,
        r#"DPoP algs="ES256 PS256""#,
        "Basic realm=\"x\"",
    ] {
        let (asked, backend) = (Asked::default(), Backend::default());
        let client = backend.retrying(application(&asked, key()));
        backend.answer(challenged(401, challenge, Some("n-1")));
        assert_eq!(
            send(&client, post()).await.unwrap().status(),
            200,
            "{challenge}"
        );
        let arrived = backend.arrived();
        let [first, second] = &*arrived else {
            panic!("{challenge}: {arrived:?}");
        };
        assert_eq!(
            (first.nonce(), second.nonce()),
            (None, Some("n-1".to_owned()))
        );
        assert_eq!(first.authorization(), second.authorization());
        assert_ne!(first.claims()["jti"], second.claims()["jti"]);
        assert_eq!(asked.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_backend_that_wants_ever_another_nonce_is_sent_one_more_request() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let client = backend.retrying(application(&asked, key()));
    for number in 0..5 {
        backend.answer(wants(&format!("n-{number}")));
    }
    assert_eq!(send(&client, post()).await.unwrap().status(), 401);
    assert_eq!(backend.arrived().len(), 2);
    assert_eq!(
        asked.requests().len(),
        1,
        "the token was replaced, and it was not rejected"
    );
}

#[tokio::test]
async fn a_wanted_nonce_counts_before_an_error_for_bearer_tokens() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let client = backend.retrying(application(&asked, key()));
    let both = r#"Bearer error="invalid_token", DPoP error="use_dpop_nonce""#;
    backend.answer(challenged(401, both, Some("n-1")));
    backend.answer(challenged(
        401,
        r#"Bearer error="invalid_token", DPoP error="invalid_dpop_proof""#,
        None,
    ));
    assert_eq!(send(&client, post()).await.unwrap().status(), 401);
    assert_eq!(backend.arrived().len(), 2, "once more with the nonce");
    assert_eq!(asked.requests().len(), 1, "the token was not rejected");
}

#[tokio::test]
async fn what_is_said_against_the_proof_replaces_no_token_and_sends_nothing_again() {
    for (challenge, nonce) in [
        (r#"DPoP error="invalid_dpop_proof""#, Some("n-1")),
        (r#"DPoP error="invalid_dpop_proof""#, None),
        // It wants a nonce, and has none.
        (r#"DPoP error="use_dpop_nonce""#, None),
    ] {
        let (asked, backend) = (Asked::default(), Backend::default());
        let client = backend.retrying(application(&asked, key()));
        backend.answer(challenged(401, challenge, nonce));
        assert_eq!(send(&client, post()).await.unwrap().status(), 401);
        assert_eq!(backend.arrived().len(), 1, "{challenge}");
        assert_eq!(asked.requests().len(), 1, "{challenge}");
    }
}

#[tokio::test]
async fn the_same_nonce_is_not_tried_again() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let client = backend.retrying(application(&asked, key()));
    backend.answer(answer(200, &[("dpop-nonce", "n-1")]));
    send(&client, post()).await.unwrap();
    backend.answer(wants("n-1"));
    assert_eq!(send(&client, post()).await.unwrap().status(), 401);
    assert_eq!(backend.arrived().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_rejected_after_the_nonce_is_replaced_once() {
    let (asked, backend) = (Asked::default(), Backend::default());
    issues(&asked, "first", "DPoP");
    issues(&asked, "second", "DPoP");
    let client = backend.retrying(application(&asked, key()));
    let rejected = || challenged(401, r#"DPoP error="invalid_token""#, Some("n-2"));
    backend.answer(wants("n-1")).answer(rejected());
    assert_eq!(send(&client, post()).await.unwrap().status(), 200);
    let sent = |arrived: &[Arrived]| -> Vec<_> {
        let sent = |request: &Arrived| {
            let token = request.authorization().to_owned();
            (token, request.nonce().unwrap_or_default())
        };
        arrived.iter().map(sent).collect()
    };
    let expected = [
        ("DPoP first", ""),
        ("DPoP first", "n-1"),
        ("DPoP second", "n-2"),
    ];
    let expected = expected.map(|(token, nonce)| (token.to_owned(), nonce.to_owned()));
    assert_eq!(sent(&backend.arrived()), expected);

    // The other way round.
    let (asked, backend) = (Asked::default(), Backend::default());
    issues(&asked, "first", "DPoP");
    issues(&asked, "second", "DPoP");
    let client = backend.retrying(application(&asked, key()));
    let rejected = || challenged(401, r#"DPoP error="invalid_token""#, None);
    backend
        .answer(rejected())
        .answer(wants("n-1"))
        .answer(rejected());
    assert_eq!(send(&client, post()).await.unwrap().status(), 401);
    let expected = [
        ("DPoP first", ""),
        ("DPoP second", ""),
        ("DPoP second", "n-1"),
    ];
    let expected = expected.map(|(token, nonce)| (token.to_owned(), nonce.to_owned()));
    assert_eq!(sent(&backend.arrived()), expected);
}

#[tokio::test]
async fn a_bound_token_steps_up_as_a_bearer_token_does() {
    let (asked, backend) = (Asked::default(), Backend::default());
    issues(&asked, "little", "DPoP");
    issues(&asked, "more", "DPoP");
    let endpoint = asked.endpoint(URL).client_auth(confidential()).dpop(key());
    let strategy = ClientCredentials::builder(endpoint.build().unwrap()).scopes(["read"]);
    let strategy = strategy.build().unwrap();
    let layer = AuthLayer::new(origin(), strategy)
        .retry_rejected()
        .step_up(["read", "write"]);
    let challenge = r#"DPoP error="insufficient_scope", scope="write", algs="ES256""#;
    backend.answer(challenged(403, challenge, None));
    let client = layer.layer(backend.service::<Body>());
    assert_eq!(client.oneshot(post()).await.unwrap().status(), 200);
    let arrived = backend.arrived();
    assert_eq!(arrived[1].authorization(), "DPoP more");
    assert_eq!(arrived[1].claims()["ath"], hash("more"));
}

#[tokio::test]
async fn a_body_that_is_a_stream_is_sent_once_and_an_empty_one_again() {
    type Stream = http_body_util::combinators::BoxBody<Bytes, BoxError>;

    let (asked, backend) = (Asked::default(), Backend::default());
    let layer = AuthLayer::new(origin(), application(&asked, key())).retry_rejected_if_empty();
    let mut client = layer.layer(backend.service::<Stream>());
    let full = || {
        let body = http_body_util::BodyExt::map_err(Full::from("{}"), BoxError::from);
        Stream::new(body)
    };
    for (body, status, sent) in [(full(), 401, 1), (Stream::default(), 200, 2)] {
        let before = backend.arrived().len();
        backend.answer(wants(&format!("n-{sent}")));
        let request = Request::post(format!("{ORIGIN}/mcp")).body(body).unwrap();
        let response = client.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(backend.arrived().len() - before, sent);
    }
}

#[tokio::test]
async fn two_users_with_one_subject_token_do_not_share_a_token_that_is_bound_to_a_key() {
    let (asked, backend) = (Asked::default(), Backend::default());
    for token in ["of-alice", "of-bob", "of-all"] {
        issues(&asked, token, "DPoP");
    }
    let keys = DpopKeys::per_user(&secret(SECRET)).unwrap();
    let exchange = |keys: DpopKeys| {
        let endpoint = asked.endpoint(URL).dpop(keys).build().unwrap();
        TokenExchange::builder(endpoint)
            .audience("backend")
            .build()
            .unwrap()
    };
    let users = [user("alice", "shared"), user("bob", "shared")];
    let client = backend.client(exchange(keys.clone()));
    for _ in 0..2 {
        for user in &users {
            send(&client, of(user)).await.unwrap();
        }
    }
    let thumbprints = users
        .each_ref()
        .map(|user| keys.key(Some(user)).unwrap().thumbprint().to_owned());
    let arrived = backend.arrived();
    let tokens: Vec<_> = arrived.iter().map(Arrived::authorization).collect();
    assert_eq!(
        tokens,
        [
            "DPoP of-alice",
            "DPoP of-bob",
            "DPoP of-alice",
            "DPoP of-bob"
        ]
    );
    assert_eq!(asked.requests().len(), 2);
    // The endpoint and the backend see the same key, another for each user.
    let proofs: Vec<_> = asked
        .proofs()
        .into_iter()
        .chain(arrived.iter().map(Arrived::proof))
        .collect();
    if let Some(verified) = verified(&proofs) {
        let seen: Vec<_> = verified
            .iter()
            .map(|said| said["thumbprint"].as_str().unwrap())
            .collect();
        let [alice, bob] = thumbprints.each_ref().map(|thumbprint| &**thumbprint);
        assert_eq!(seen, [alice, bob, alice, bob, alice, bob]);
    }

    // With one key for all, they share the token as they always did.
    let client = backend.client(exchange(key().into()));
    for user in &users {
        send(&client, of(user)).await.unwrap();
    }
    assert_eq!(asked.requests().len(), 3);
}

#[tokio::test]
async fn tokens_of_different_keys_are_kept_apart_in_a_shared_cache() {
    let (asked, backend) = (Asked::default(), Backend::default());
    let cache = tower_identity::CredentialCache::builder().build().unwrap();
    for key in [key(), key()] {
        let endpoint = asked
            .endpoint(URL)
            .client_auth(confidential())
            .dpop(key.clone());
        let strategy = ClientCredentials::builder(endpoint.build().unwrap()).cache(cache.clone());
        let client = backend.client(strategy.build().unwrap());
        send(&client, post()).await.unwrap();
        let proof = backend.arrived().last().unwrap().proof();
        if let Some(verified) = verified(&[proof]) {
            assert_eq!(verified[0]["thumbprint"], key.thumbprint());
        }
    }
    assert_eq!(asked.requests().len(), 2);
}

#[test]
fn another_placement_beside_dpop_is_a_fault_of_the_placement() {
    let asked = Asked::default();
    let endpoint = || {
        let endpoint = asked.endpoint(URL).client_auth(confidential());
        endpoint.dpop(key()).build().unwrap()
    };
    let plain = || asked.endpoint(URL).build().unwrap();
    let placement = |name: &str| Placement::header(name).unwrap();
    for other in [
        placement("x-api-key"),
        placement("authorization").prefix("token ").unwrap(),
    ] {
        let client = ClientCredentials::builder(endpoint()).placement(other.clone());
        let exchange = TokenExchange::builder(endpoint()).placement(other.clone());
        let obo = OnBehalfOf::builder(endpoint())
            .scopes(["a"])
            .placement(other.clone());
        let xaa = CrossAppAccess::builder("idp", plain(), endpoint());
        let xaa = xaa
            .audience("https://as.example.com")
            .placement(other.clone());
        for error in [
            client.build().unwrap_err(),
            exchange.build().unwrap_err(),
            obo.build().unwrap_err(),
            xaa.build().unwrap_err(),
        ] {
            assert!(error.to_string().contains("placement"), "{error}");
        }
        // Only the assertion is bound, which goes nowhere but to the authorization server.
        let xaa = CrossAppAccess::builder("idp", endpoint(), plain());
        xaa.audience("https://as.example.com")
            .placement(other)
            .build()
            .unwrap();
    }
    let bearer = placement("authorization").prefix("Bearer ").unwrap();
    TokenExchange::builder(endpoint())
        .placement(bearer)
        .build()
        .unwrap();
}

#[tokio::test]
async fn an_upstream_token_that_is_bound_to_a_key_is_sent_with_it_or_not_at_all() {
    let backend = Backend::default();
    let keys = DpopKeys::per_user(&secret(SECRET)).unwrap();
    let alice = user("alice", "own");
    let bound_to = |thumbprint: &str| {
        let token = UpstreamToken::new(AccessToken::new("bound").unwrap());
        let token = token.with_dpop_thumbprint(thumbprint);
        let builder = Identity::builder("alice").issuer("https://idp.example.com");
        builder.upstream("github", token).build().unwrap()
    };
    let own = bound_to(keys.key(Some(&alice)).unwrap().thumbprint());
    let before_login = bound_to(keys.key(None).unwrap().thumbprint());
    let foreign = bound_to(key().thumbprint());
    let inject = UpstreamInject::new("github").unwrap();
    let client = backend.client(inject.clone().dpop(keys.clone()));
    send(&client, of(&own)).await.unwrap();
    let sent = &backend.arrived()[0];
    assert_eq!(sent.authorization(), "DPoP bound");
    assert!(sent.headers["authorization"].is_sensitive());
    assert_eq!(sent.claims()["ath"], hash("bound"));

    // An account that was linked before the user was known.
    send(&client, of(&before_login)).await.unwrap();
    assert_eq!(backend.arrived()[1].authorization(), "DPoP bound");

    // The key is gone: the user links the account again.
    let error = send(&client, of(&foreign)).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::MissingToken);
    assert!(matches!(
        error.interaction(),
        Some(Interaction::LinkAccount { provider, .. }) if provider == "github"
    ));
    // There are no keys, or the token would be in another header.
    let elsewhere = inject
        .clone()
        .placement(Placement::header("x-api-key").unwrap());
    for strategy in [inject, elsewhere.clone(), elsewhere.dpop(keys.clone())] {
        let error = send(&backend.client(strategy), of(&own)).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
        assert!(
            !error
                .to_string()
                .contains(keys.key(None).unwrap().thumbprint())
        );
    }
    assert_eq!(backend.arrived().len(), 2);

    // A bearer token goes as it is.
    let plain = support::recording::identity("alice", "gho_1");
    send(&client, of(&plain)).await.unwrap();
    let sent = &backend.arrived()[2];
    assert_eq!(
        (sent.authorization(), sent.proofs().len()),
        ("Bearer gho_1", 0)
    );
}

#[tokio::test]
async fn a_request_that_waits_for_its_proof_can_be_cancelled() {
    struct Never;

    impl JwtSigner for Never {
        fn sign<'a>(&'a self, _: &'a [u8]) -> SigningFuture<'a> {
            Box::pin(std::future::pending())
        }
    }

    let backend = Backend::default();
    let key = DpopKey::with_signer(SigningAlgorithm::Es256, Never, &P256.public().to_string());
    let client = backend.client(AlwaysBound(key.unwrap()));
    let call = send(&client, post());
    assert!(
        tokio::time::timeout(Duration::from_millis(1), call)
            .await
            .is_err()
    );
    assert_eq!(backend.arrived().len(), 0);
}
