//! Requests with a proof at backends that nobody here wrote: the endpoint for user info of npm's oidc-provider, which
//! demands a proof (with and without a nonce), and a resource server over npm's oauth4webapi.
#![cfg(all(
    feature = "dpop",
    feature = "hyper",
    feature = "incoming",
    feature = "reqwest"
))]

mod support;

use std::{process::Stdio, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::{
    oidc_provider::{CALLBACK, OidcProvider, VERIFIER},
    peers,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tower::{BoxError, Layer, Service, ServiceExt, util::BoxCloneSyncService};
use tower_identity::{
    AccessToken, AuthLayer, ClientAuth, ClientCredentials, Identity, IdentityLayer, Origin, Secret,
    Strategy, Subject, TokenEndpoint, TokenExchange, UpstreamInject, UpstreamToken,
    client::{hyper::https_client, reqwest::ReqwestService},
    oauth::{DpopKey, DpopKeys, TokenRequest, TokenType},
};

type Body = Full<Bytes>;
type Dynamic = Arc<dyn Strategy<Body>>;
type Client = BoxCloneSyncService<Request<Body>, Response<Bytes>, BoxError>;

const API: &str = "https://api.example.com/";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

async fn provider(nonce: bool) -> Option<OidcProvider> {
    OidcProvider::start(json!({
        "clients": [
            { "client_id": "browser", "token_endpoint_auth_method": "none" },
            { "client_id": "gateway", "client_secret": SECRET },
        ],
        "resources": { API: {} },
        "dpop": { "nonce": nonce },
    }))
    .await
}

fn endpoint(provider: &OidcProvider, client_auth: ClientAuth, keys: DpopKeys) -> TokenEndpoint {
    let client = https_client::<Body>().unwrap();
    TokenEndpoint::builder(provider.token_endpoint(), client)
        .client_auth(client_auth)
        .dpop(keys)
        .build()
        .unwrap()
}

fn gateway() -> ClientAuth {
    ClientAuth::basic("gateway", secret(SECRET))
}

/// A user whose access token of the provider is bound to their key.
async fn logged_in(provider: &OidcProvider, user: &str, keys: &DpopKeys) -> Identity {
    let code = provider
        .code(&[
            ("client_id", "browser"),
            ("scope", "openid profile"),
            ("login_hint", user),
        ])
        .await;
    let identity = Identity::builder(user).build().unwrap();
    let key = keys.key(Some(&identity)).unwrap();
    let request = TokenRequest::authorization_code(&code)
        .parameter("code_verifier", VERIFIER)
        .parameter("redirect_uri", CALLBACK)
        .dpop_key(key.clone());
    let endpoint = endpoint(provider, ClientAuth::none("browser"), keys.clone());
    let response = endpoint.request_token(request).await.unwrap();
    let token = UpstreamToken::new(response.token().clone());
    let token = token.with_dpop_thumbprint(key.thumbprint());
    let builder = Identity::builder(user).upstream("provider", token);
    builder.build().unwrap()
}

/// A layer, without and with the retry, over each HTTP client of this crate.
fn clients<A>(origin: &Origin, strategy: A) -> Vec<(&'static str, Client)>
where
    A: Strategy<Body> + Clone + 'static,
{
    let layer = || AuthLayer::new(origin.clone(), strategy.clone());
    let retrying = || layer().retry_rejected();
    let hyper = https_client::<Body>().unwrap();
    let reqwest = ReqwestService::<Body>::new(reqwest::Client::builder()).unwrap();
    vec![
        ("hyper", whole(layer().layer(hyper.clone()))),
        ("hyper, retrying", whole(retrying().layer(hyper))),
        ("reqwest", whole(layer().layer(reqwest.clone()))),
        ("reqwest, retrying", whole(retrying().layer(reqwest))),
    ]
}

fn whole<S, R>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<R>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(service.and_then(async |response: Response<R>| {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }))
}

async fn send(client: &Client, request: Request<Body>) -> (StatusCode, Value) {
    let response = client.clone().oneshot(request).await.unwrap();
    let said = serde_json::from_slice(response.body());
    let headers = format!("{:?}", response.headers());
    (response.status(), said.unwrap_or_else(|_| json!(headers)))
}

#[tokio::test]
async fn a_provider_tells_about_each_user_with_their_bound_token_and_the_proof_of_their_key() {
    for nonce in [false, true] {
        let Some(provider) = provider(nonce).await else {
            return;
        };
        let keys = DpopKeys::per_user(&secret(SECRET)).unwrap();
        let [alice, bob] = [
            logged_in(&provider, "alice", &keys).await,
            logged_in(&provider, "bob", &keys).await,
        ];
        let origin = Origin::try_from(provider.issuer()).unwrap();
        let strategy = UpstreamInject::new("provider").unwrap().dpop(keys.clone());
        let about = |user: &Identity| {
            let mut request = Request::get(provider.uri("/me?of=me"));
            let host = provider.issuer().strip_prefix("http://").unwrap();
            request = request.header(HOST, host).header("dpop", "of-the-caller");
            request.extensions_mut().unwrap().insert(user.clone());
            request.body(Full::default()).unwrap()
        };
        for (name, client) in clients(&origin, strategy.clone()) {
            // The first request has no nonce yet.
            let first = send(&client, about(&alice)).await;
            let expected = match nonce && !name.ends_with("retrying") {
                true => StatusCode::UNAUTHORIZED,
                false => StatusCode::OK,
            };
            assert_eq!(first.0, expected, "{name}: {first:?}");
            for (user, subject) in [(&alice, "alice"), (&bob, "bob"), (&alice, "alice")] {
                let (status, said) = send(&client, about(user)).await;
                assert_eq!(status, StatusCode::OK, "{name}: {said}");
                assert_eq!(said["sub"], subject, "{name}");
            }
        }

        // The peer would have noticed: another key, a bearer token, and a proof for another place.
        let other = DpopKeys::from(DpopKey::generate().unwrap());
        let thumbprint = other.key(None).unwrap().thumbprint().to_owned();
        let token = alice.upstream("provider").unwrap().clone();
        let stolen = token.clone().with_dpop_thumbprint(thumbprint);
        let stolen = Identity::builder("alice").upstream("provider", stolen);
        let bearer = UpstreamToken::new(token.access_token().clone());
        let bearer = Identity::builder("alice").upstream("provider", bearer);
        let strategy = UpstreamInject::new("provider").unwrap().dpop(other);
        for identity in [stolen, bearer] {
            let identity = identity.build().unwrap();
            for (name, client) in clients(&origin, strategy.clone()) {
                let (status, said) = send(&client, about(&identity)).await;
                assert_ne!(status, StatusCode::OK, "{name}: {said}");
            }
        }
    }
}

struct ResourceServer {
    origin: Origin,
    _process: Child,
}

impl ResourceServer {
    async fn start(provider: &OidcProvider) -> Option<Self> {
        let mut command = peers::required(peers::RESOURCE_SERVER)?;
        command.arg(json!({ "issuer": provider.issuer(), "audience": API }).to_string());
        let mut process = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("it ended");
        let said: Value = serde_json::from_str(&line).unwrap();
        Some(Self {
            origin: Origin::try_from(said["origin"].as_str().unwrap()).unwrap(),
            _process: process,
        })
    }

    fn request(&self) -> Request<Body> {
        Request::post(format!("{}/mcp/a%20b?c=d", self.origin))
            .body(Full::from("{}"))
            .unwrap()
    }
}

#[tokio::test]
async fn a_resource_server_admits_the_bound_tokens_of_each_strategy() {
    let Some(provider) = provider(true).await else {
        return;
    };
    let Some(server) = ResourceServer::start(&provider).await else {
        return;
    };
    let user = provider
        .log_in("browser", "alice", "openid offline_access read", API)
        .await;
    let issued = AccessToken::new(&*user.access_token).unwrap();
    let alice = Identity::builder("alice").token(issued).build().unwrap();
    let keys = DpopKeys::per_user(&secret(SECRET)).unwrap();
    let issuer = || endpoint(&provider, gateway(), keys.clone());
    let client_credentials = ClientCredentials::builder(issuer()).resource(API);
    let exchange = TokenExchange::builder(issuer())
        .resource(API)
        .scopes(["read"]);
    let exchange = exchange.subject(Subject::own_token().as_type(TokenType::AccessToken));
    let strategies: [(Dynamic, _, _); 2] = [
        (
            Arc::new(client_credentials.build().unwrap()),
            "gateway",
            None,
        ),
        (Arc::new(exchange.build().unwrap()), "alice", Some(&alice)),
    ];
    for (strategy, subject, key_of) in strategies {
        for (name, client) in clients(&server.origin, strategy.clone()) {
            let client = IdentityLayer::new(alice.clone()).layer(client);
            for _ in 0..2 {
                let response = client.clone().oneshot(server.request()).await.unwrap();
                let said: Value = serde_json::from_slice(response.body()).unwrap();
                assert_eq!(response.status(), StatusCode::OK, "{name}: {said}");
                assert_eq!(said["sub"], subject, "{name}");
                let thumbprint = keys.key(key_of).unwrap().thumbprint().to_owned();
                assert_eq!(said["cnf"]["jkt"], thumbprint, "{name}");
            }
        }
    }
    // It looks: a token without a proof, and a proof that is used at another place.
    let bearer = UpstreamInject::new("provider").unwrap();
    let issuer = issuer();
    let request = TokenRequest::client_credentials().resource(API);
    let response = issuer.request_token(request).await.unwrap();
    let token = UpstreamToken::new(response.token().clone());
    let anybody = Identity::builder("mallory").upstream("provider", token);
    let mut request = server.request();
    request.extensions_mut().insert(anybody.build().unwrap());
    for (name, client) in clients(&server.origin, bearer) {
        let mut stolen = server.request();
        *stolen.extensions_mut() = request.extensions().clone();
        let (status, said) = send(&client, stolen).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {said}");
    }
}
