use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower::{BoxError, Service};

use crate::Origin;

use super::{TestBackend, TestIssuer, origin_of};

/// The hosts that the application under test can reach, as one HTTP client.
///
/// Needs the feature `testing`.
///
/// An application has one HTTP client for all its issuers and backends. A test replaces this client, and all else is as
/// in production. A request for a host that is not in the network fails, as if it had no address.
///
/// ```
/// use http::Request;
/// use tower::{ServiceExt, service_fn};
/// use tower_identity::testing::{TestBackend, TestIssuer, TestNetwork};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let hello = service_fn(async |_: Request<_>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
/// });
/// let network = TestNetwork::new()
///     .issuer(&TestIssuer::new("https://idp.example.com"))
///     .backend(&TestBackend::new("https://api.example.com"))
///     .host("https://hello.example.com", hello);
///
/// for (url, is_there) in [
///     ("https://idp.example.com/jwks", true),
///     ("https://hello.example.com/", true),
///     ("https://elsewhere.example.com/", false),
/// ] {
///     let request = Request::get(url).body(String::new())?;
///     assert_eq!(network.clone().oneshot(request).await.is_ok(), is_there);
/// }
/// # Ok(())
/// # }
/// ```
///
/// A host is any Tower service for requests whose body is a `Full<Bytes>`, for example an `axum::Router`, or the MCP server
/// of `rmcp`. Response bodies are passed on as they are, so that they can stream.
#[derive(Clone, Default)]
pub struct TestNetwork {
    hosts: Arc<Vec<(Origin, Arc<Host>)>>,
}

type Host = dyn Fn(Request<Full<Bytes>>) -> Sending + Send + Sync;
type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;
type Sent = Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

impl TestNetwork {
    /// Creates a network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an issuer.
    #[must_use]
    pub fn issuer(self, issuer: &TestIssuer) -> Self {
        self.add(issuer.origin(), issuer.clone())
    }

    /// Adds a backend.
    #[must_use]
    pub fn backend(self, backend: &TestBackend) -> Self {
        self.add(backend.origin(), backend.clone())
    }

    /// Adds any service as the host of this origin, for example `https://mcp.example.com`.
    ///
    /// # Panics
    ///
    /// If it is not an [`Origin`].
    #[must_use]
    #[track_caller]
    pub fn host<S, ResBody>(self, origin: &str, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
    {
        self.add(origin_of(origin), service)
    }

    fn add<S, ResBody>(mut self, origin: Origin, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
    {
        let host = move |request| -> Sending { Box::pin(send(service.clone(), request)) };
        Arc::make_mut(&mut self.hosts).push((origin, Arc::new(host)));
        self
    }
}

async fn send<S, ResBody>(mut service: S, request: Request<Full<Bytes>>) -> Sent
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    let response = service.call(request).await.map_err(Into::into)?;
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

impl<B> Service<Request<B>> for TestNetwork
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = TestNetworkFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> TestNetworkFuture {
        let uri = request.uri();
        let is_at = |origin: &Origin| {
            let scheme = uri.scheme().is_some_and(|scheme| origin.is_scheme(scheme));
            let authority = uri.authority();
            scheme && authority.is_some_and(|authority| origin.is_authority(authority))
        };
        // The newest host of an origin is the one that answers.
        let mut hosts = self.hosts.iter().rev();
        let host = hosts.find(|(origin, _)| is_at(origin));
        let host = host.map(|(_, host)| host.clone());
        TestNetworkFuture {
            sending: Box::pin(async move {
                let (mut head, body) = request.into_parts();
                let host = host.ok_or_else(|| {
                    let asked = head.uri.authority();
                    let asked = asked.map_or("no host", |authority| authority.as_str());
                    format!("the test's network does not have {asked}, over this scheme")
                })?;
                // They would not travel.
                head.extensions.clear();
                let body = body.collect().await.map_err(Into::into)?.to_bytes();
                host(Request::from_parts(head, Full::new(body))).await
            }),
        }
    }
}

impl fmt::Debug for TestNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|(origin, _)| origin);
        f.debug_set().entries(hosts).finish()
    }
}

/// The future of [`TestNetwork`].
///
/// Needs the feature `testing`.
#[must_use = "futures do nothing unless polled"]
pub struct TestNetworkFuture {
    sending: Sending,
}

impl Future for TestNetworkFuture {
    type Output = Sent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Sent> {
        self.sending.as_mut().poll(cx)
    }
}

impl fmt::Debug for TestNetworkFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestNetworkFuture").finish_non_exhaustive()
    }
}
