//! A service of AWS and its STS on loopback, and users who come with claims.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tower::{BoxError, Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthError, AuthLayer, AwsSts, Identity, ManualClock, Strategy,
    strategy::AwsStsBuilder,
};

use super::{
    http_server::{HttpServer, ok},
    sigv4::{Arrived, MOST_SERVICES, Signature},
    sts::{Session, Sts},
};

pub(crate) type Body = Full<Bytes>;

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const DEFAULT_ROLE: &str = "arn:aws:iam::123456789012:role/Default";

pub(crate) fn http_client<B>() -> Client<HttpConnector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

/// A user who came with this token.
pub(crate) fn user(subject: &str, token: &str) -> Identity {
    user_with(subject, token, serde_json::json!({}))
}

/// As [`user`], with claims.
pub(crate) fn user_with(subject: &str, token: &str, claims: Value) -> Identity {
    Identity::builder(subject)
        .token(AccessToken::new(token).unwrap())
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap()
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(
        UNIX_EPOCH + Duration::from_secs(1_800_000_000),
    ))
}

type WithTrailers = (Arrived, Option<HeaderMap>);

pub(crate) struct AwsStack {
    pub(crate) sts: Sts,
    pub(crate) service: HttpServer,
    pub(crate) clock: Arc<ManualClock>,
    arrived: Arc<Mutex<Vec<WithTrailers>>>,
}

impl AwsStack {
    pub(crate) async fn start() -> Self {
        let clock = clock();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let keeps = arrived.clone();
        let service = HttpServer::start(move |request: Request<Incoming>| {
            let keeps = keeps.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap();
                let trailers = body.trailers().cloned();
                let arrived = Arrived {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    body: body.to_bytes().to_vec(),
                };
                keeps.lock().unwrap().push((arrived, trailers));
                ok()
            }
        })
        .await;
        Self {
            sts: Sts::start(clock.clone()).await,
            service,
            clock,
            arrived,
        }
    }

    /// A strategy with nothing special, and a role for everybody.
    pub(crate) fn builder(&self) -> AwsStsBuilder {
        AwsSts::builder(REGION, http_client::<Body>())
            .sts_endpoint(self.sts.url())
            .clock(self.clock.clone())
            .fallback_role(DEFAULT_ROLE)
    }

    pub(crate) fn strategy(&self) -> AwsSts {
        self.builder().build().unwrap()
    }

    /// A request to the service, on behalf of `identity`.
    pub(crate) fn request(&self, identity: &Identity) -> Request<Body> {
        self.request_with(identity, Full::from("{}"))
    }

    pub(crate) fn request_with<B>(&self, identity: &Identity, body: B) -> Request<B> {
        let mut request = Request::post(self.service.uri("/mcp")).body(body).unwrap();
        request.extensions_mut().insert(identity.clone());
        request
    }

    pub(crate) async fn send<B, A>(
        &self,
        strategy: &A,
        request: Request<B>,
    ) -> Result<Response<Incoming>, BoxError>
    where
        A: Strategy<B> + Clone,
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let layer = AuthLayer::new(self.service.origin(), strategy.clone());
        layer.layer(http_client::<B>()).oneshot(request).await
    }

    pub(crate) async fn call(
        &self,
        strategy: &AwsSts,
        identity: &Identity,
    ) -> Result<Session, AuthError> {
        match self.send(strategy, self.request(identity)).await {
            Ok(_) => Ok(self.last()),
            Err(error) => Err(AuthError::find_in(error.as_ref()).unwrap().clone()),
        }
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        let arrived = self.arrived.lock().unwrap();
        arrived.iter().map(|(arrived, _)| arrived.clone()).collect()
    }

    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        self.arrived.lock().unwrap().last().unwrap().1.clone()
    }

    /// In whose session the last request was signed.
    pub(crate) fn last(&self) -> Session {
        self.session(self.arrived().last().unwrap())
    }

    /// In whose session a request was signed. It panics when the signature is wrong.
    pub(crate) fn session(&self, arrived: &Arrived) -> Session {
        let signature = Signature::of(&arrived.headers);
        let session = self.sts.session(&signature.access_key_id).unwrap();
        let tokens: Vec<_> = arrived
            .headers
            .get_all("x-amz-security-token")
            .iter()
            .collect();
        assert_eq!(tokens, [&session.session_token]);
        assert_eq!(signature.region, REGION);
        assert!(signature.is_by(&session.secret_access_key, arrived, MOST_SERVICES));
        session
    }

    pub(crate) fn now(&self) -> SystemTime {
        tower_identity::Clock::now(&*self.clock)
    }
}
