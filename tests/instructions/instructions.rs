//! Runs one scenario a number of times, for `.ci/instructions.py`, which counts its instructions with valgrind.
//!
//! Unlike a time, the count is the same in each run and on a busy machine, so that it can fail the build. Every scenario
//! includes building the request and dropping it.
//!
//! ```text
//! .ci/instructions.py
//! ```

use std::{
    convert::Infallible,
    env,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::json;
use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, KeySet, Origin, Placement, Secret,
    SignedIdentity, Strategy, TokenEndpoint, TokenExchange, TokenValidator, TokenValidatorLayer,
    UpstreamInject, UpstreamToken,
    oauth::{SigningAlgorithm, SigningKeys},
};

type Body = Full<Bytes>;

/// Stands for the HTTP client: takes the request and answers at once.
#[derive(Clone)]
struct Bare;

impl Service<Request<Body>> for Bare {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(())))
    }
}

/// What somebody would write by hand, without any check of the origin. It is the one of the bench `hot_path`.
struct Minimum {
    session: Option<Identity>,
}

impl Service<Request<Body>> for Minimum {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.extensions().get::<Identity>().is_none()
            && let Some(session) = &self.session
        {
            request.extensions_mut().insert(session.clone());
        }
        let authorization = request
            .extensions()
            .get::<Identity>()
            .and_then(|identity| identity.upstream("github"))
            .filter(|token| token.expires_at().is_none_or(|at| at > SystemTime::now()))
            .map(|token| token.access_token().authorization().clone());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        Bare.call(request)
    }
}

fn identity(upstream_token: &str) -> Result<Identity, BoxError> {
    let upstream = UpstreamToken::new(AccessToken::new(upstream_token)?)
        .with_expires_at(SystemTime::now() + Duration::from_secs(3600));
    let identity = Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("eyJhbGciOiJFUzI1NiJ9")?)
        .upstream("github", upstream);
    Ok(identity.build()?)
}

/// A request as an MCP client sends it.
fn request(identity: Option<&Identity>) -> Result<Request<Body>, http::Error> {
    let mut request = Request::post("https://mcp.example.com/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::from(Bytes::from_static(b"{}")))?;
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity.clone());
    }
    Ok(request)
}

fn layers<A: Strategy<Body> + Clone>(
    session: Option<Identity>,
    strategy: A,
) -> Result<impl Service<Request<Body>, Response = Response<()>>, BoxError> {
    let origin = Origin::try_from("https://mcp.example.com")?;
    Ok(ServiceBuilder::new()
        .layer(IdentityLayer::new(session))
        .layer(AuthLayer::new(origin, strategy))
        .service(Bare))
}

fn exchange() -> Result<TokenExchange, BoxError> {
    let issuer = service_fn(async |_: Request<Body>| {
        let answer = r#"{"access_token":"exchanged","token_type":"Bearer","expires_in":43200,
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#;
        Ok::<_, Infallible>(Response::new(Body::from(answer)))
    });
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer).build()?;
    let exchange = TokenExchange::builder(endpoint).audience("mcp-backend");
    Ok(exchange.build()?)
}

fn signed() -> Result<SignedIdentity, BoxError> {
    let pem = Secret::new(include_str!("../support/keys/ed25519.pem"))?;
    let keys = SigningKeys::new("key", SigningAlgorithm::EdDsa, &pem)?;
    let signed = SignedIdentity::builder(
        "https://gateway.example.com",
        "https://mcp.example.com",
        keys,
    );
    Ok(signed.lifetime(Duration::from_secs(3600)).build()?)
}

/// Has the user's credential put into the cache.
fn obtain(strategy: &impl Strategy<Body>, user: &Identity) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let mut request = request(Some(user))?;
        let authenticating = strategy.authenticate(&mut request);
        authenticating.complete(request).await?;
        Ok(())
    })
}

fn run<S>(times: usize, identity: Option<&Identity>, mut service: S) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<()>>,
{
    for _ in 0..times {
        let answered = service.call(request(identity)?).now_or_never();
        assert!(black_box(answered).is_some_and(|answer| answer.is_ok()));
    }
    Ok(())
}

/// Requests whose token the validator has validated before.
fn remembered(times: usize) -> Result<(), BoxError> {
    const ISSUER: &str = "https://issuer.example.com";
    // Its signature takes the same instructions each time.
    let key = EncodingKey::from_ed_pem(include_bytes!("../support/keys/ed25519.pem"))?;
    let public = Jwk::from_encoding_key(&key, Algorithm::EdDSA)?;
    let keys = KeySet::from_json(json!({ "keys": [public] }).to_string())?;
    let validator = TokenValidator::builder_with_keys(ISSUER, keys).audience("gateway");
    let layer = TokenValidatorLayer::new(validator.cache_tokens(1000).build()?);
    let claims =
        json!({ "iss": ISSUER, "aud": "gateway", "sub": "user-1", "exp": 32_503_680_000_u64 });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key)?;
    let authorization = HeaderValue::try_from(format!("Bearer {token}"))?;
    let mut service = layer.layer(service_fn(async |request: Request<Body>| {
        drop(black_box(request));
        Ok::<_, Infallible>(Response::new(Body::default()))
    }));
    for _ in 0..times {
        let mut request = request(None)?;
        request
            .headers_mut()
            .insert(AUTHORIZATION, authorization.clone());
        let answered = service.call(request).now_or_never();
        assert!(
            black_box(answered)
                .is_some_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
        );
    }
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [scenario, times] = &*arguments else {
        return Err("give a scenario and how many times it runs".into());
    };
    let times = times.parse()?;
    let fresh = identity("gho_16C7e42F292c6912E7710c838347Ae178B4a")?;
    let session = Some(identity("gho_0000000000000000000000000000000000")?);
    let inject = UpstreamInject::new("github")?;
    match scenario.as_str() {
        "bare" => run(times, Some(&fresh), Bare),
        "minimum" => run(times, Some(&fresh), Minimum { session }),
        "inject" => run(times, Some(&fresh), layers(session, inject)?),
        "fallback_minimum" => run(times, None, Minimum { session }),
        "fallback" => run(times, None, layers(session, inject)?),
        "placed" => {
            let placement = Placement::header("x-api-key")?;
            run(
                times,
                Some(&fresh),
                layers(session, inject.placement(placement))?,
            )
        }
        "cache_hit" => {
            let exchange = exchange()?;
            obtain(&exchange, &fresh)?;
            run(times, Some(&fresh), layers(None, exchange)?)
        }
        "statement_hit" => {
            let signed = signed()?;
            obtain(&signed, &fresh)?;
            run(times, Some(&fresh), layers(None, signed)?)
        }
        "remembered" => remembered(times),
        other => Err(format!("no scenario is called {other}").into()),
    }
}
