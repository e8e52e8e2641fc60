//! A backend, an issuer and users, for the strategies that have tokens issued.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::WWW_AUTHENTICATE};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthError, AuthLayer, HealthCheck, Identity, IdentityLayer, ManualClock, Secret,
    Strategy, TokenEndpoint, UpstreamToken, oauth::TokenEndpointBuilder,
};

use super::{
    authenticated::Authenticated,
    http_server::{self, HttpServer, ServerBody},
    issuer::Issuer,
};

pub(crate) type Body = Full<Bytes>;

pub(crate) fn http_client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn endpoint_builder(issuer: &Issuer) -> TokenEndpointBuilder {
    TokenEndpoint::builder(issuer.url(), http_client())
}

pub(crate) fn endpoint(issuer: &Issuer) -> TokenEndpoint {
    endpoint_builder(issuer).build().unwrap()
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UNIX_EPOCH))
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The time that is so many seconds after what [`clock`] says at first.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A user who came with this token.
pub(crate) fn user(subject: &str, token: &str) -> Identity {
    Identity::builder(subject)
        .token(AccessToken::new(token).unwrap())
        .build()
        .unwrap()
}

/// As [`user`], with an `exp` claim.
pub(crate) fn user_until(subject: &str, token: &str, exp: impl Into<Value>) -> Identity {
    let claims = json!({ "sub": subject, "exp": exp.into() });
    Identity::builder(subject)
        .token(AccessToken::new(token).unwrap())
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap()
}

/// A user who logged in at the provider `idp`.
pub(crate) fn user_with_id_token(subject: &str, id_token: &str) -> Identity {
    let upstream = UpstreamToken::new(AccessToken::new("idp-access-token").unwrap())
        .with_id_token(secret(id_token));
    Identity::builder(subject)
        .upstream("idp", upstream)
        .build()
        .unwrap()
}

/// A JWT that nobody signed.
pub(crate) fn jwt(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.c2lnbmF0dXJl")
}

/// A backend on loopback that answers 401 to the tokens it was told to reject, and 200 to all others.
pub(crate) struct Backend {
    pub(crate) server: HttpServer,
    rejected: Arc<Mutex<BTreeSet<String>>>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let rejected = Arc::new(Mutex::new(BTreeSet::new()));
        let rejects = rejected.clone();
        let server = HttpServer::start(move |request: Request<Incoming>| {
            let authorization = request.headers().get("authorization");
            let token =
                authorization.and_then(|value| value.to_str().unwrap().strip_prefix("Bearer "));
            let is_rejected = token.is_some_and(|token| rejects.lock().unwrap().contains(token));
            async move {
                if is_rejected {
                    unauthorized()
                } else {
                    http_server::ok()
                }
            }
        })
        .await;
        Self { server, rejected }
    }

    pub(crate) fn reject(&self, token: &str) {
        self.rejected.lock().unwrap().insert(token.to_owned());
    }

    /// The `Authorization` values of each request so far.
    pub(crate) fn authorizations(&self) -> Vec<Vec<String>> {
        let requests = self.server.requests();
        let authorizations = |request: &http_server::Received| {
            let values = request.all("authorization");
            values.into_iter().map(str::to_owned).collect()
        };
        requests.iter().map(authorizations).collect()
    }

    /// The stack without a retry.
    pub(crate) fn client<A>(&self, strategy: A) -> impl HttpService
    where
        A: Strategy<Body> + Clone + Send + Sync + 'static,
    {
        ServiceBuilder::new()
            .layer(IdentityLayer::new(None))
            .layer(AuthLayer::new(self.server.origin(), strategy))
            .service(http_client())
    }

    pub(crate) fn request(&self, identity: impl Into<Option<Identity>>) -> Request<Body> {
        let mut request = Request::post(self.server.uri("/mcp"))
            .body(Full::from("{}"))
            .unwrap();
        if let Some(identity) = identity.into() {
            request.extensions_mut().insert(identity);
        }
        request
    }

    pub(crate) fn probe(&self) -> Request<Body> {
        let mut request = self.request(None);
        request.extensions_mut().insert(HealthCheck);
        request
    }
}

pub(crate) fn unauthorized() -> Response<ServerBody> {
    let mut response = http_server::ok();
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = r#"Bearer error="invalid_token""#.parse().unwrap();
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// A client of a backend.
pub(crate) trait HttpService:
    Service<Request<Body>, Response = Response<Self::ResBody>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static
{
    type ResBody: http_body::Body<Data = Bytes, Error = hyper::Error> + Debug + Send + 'static;
}

impl<S, ResBody> HttpService for S
where
    S: Service<Request<Body>, Response = Response<ResBody>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
    ResBody: http_body::Body<Data = Bytes, Error = hyper::Error> + Debug + Send + 'static,
{
    type ResBody = ResBody;
}

/// Sends a request. What fails is an [`AuthError`].
pub(crate) async fn send<S: HttpService>(
    client: &S,
    request: Request<Body>,
) -> Result<Response<S::ResBody>, AuthError> {
    let answer = client.clone().oneshot(request).await;
    answer.map_err(|error| {
        AuthError::find_in(error.as_ref())
            .expect("an AuthError")
            .clone()
    })
}

/// The token that a strategy puts onto a request of this user, without its scheme.
pub(crate) async fn token_for(
    strategy: &impl Strategy<Body>,
    identity: impl Into<Option<Identity>>,
) -> Result<String, AuthError> {
    let mut request = Request::post("https://mcp.example.com/mcp")
        .body(Full::from("{}"))
        .unwrap();
    if let Some(identity) = identity.into() {
        request.extensions_mut().insert(identity);
    }
    let request = strategy.authenticated(request).await?;
    let authorization = &request.headers()["authorization"];
    assert!(authorization.is_sensitive());
    let value = authorization.to_str().unwrap();
    Ok(value.strip_prefix("Bearer ").unwrap().to_owned())
}
