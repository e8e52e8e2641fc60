//! A ready-made HTTPS client: hyper-util over rustls.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::Layer;
//! use tower_identity::{AuthLayer, Origin, UpstreamInject, client::hyper::https_client};
//!
//! let http_client = https_client::<Full<Bytes>>()?;
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let client = AuthLayer::new(origin, UpstreamInject::new("github")?).layer(http_client);
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # What it does
//!
//! - HTTP/2 where the server offers it (by ALPN), else HTTP/1.1. Bodies stream, both ways.
//! - TLS 1.2 and 1.3 by rustls with aws-lc-rs, whatever default provider the process has installed, if any.
//! - `http` URIs are sent in plain text. Whether a credential may go there, [`Origin`](crate::Origin) decides.
//! - A TCP connection has 10 seconds to come about. Nothing limits the TLS handshake, a response or its body, as an event
//!   stream may stay open for hours: put tower's `TimeoutLayer` above, which ends with the response's headers.
//! - Connections are kept for reuse until they have been idle for 90 seconds, hyper-util's default.
//! - It follows no redirects. A relative URI is an error.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::hyper::body::Incoming;
use http::{Request, Response};
use http_body::Body;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, ResponseFuture, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use tower::{BoxError, Service};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTPS client for requests with the body `B`.
///
/// Cheap to clone; clones share the connections.
pub struct HttpsClient<B> {
    client: Client<HttpsConnector<HttpConnector>, B>,
}

/// A client that trusts the certificate authorities that the operating system trusts.
///
/// See the [module](self) for what it does. It reads the certificates now, so make one client and clone it.
///
/// # Errors
///
/// When the system has no usable certificate authority; [`https_client_with`] takes your own.
pub fn https_client<B>() -> io::Result<HttpsClient<B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_native_roots()?
        .with_no_client_auth();
    Ok(https_client_with(config))
}

/// A client with your own TLS settings: a private certificate authority, a client certificate.
///
/// The ALPN protocols in `config` are replaced by those that the client speaks.
pub fn https_client_with<B>(mut config: ClientConfig) -> HttpsClient<B>
where
    B: Body + Send,
    B::Data: Send,
{
    // The connector panics if there are any.
    config.alpn_protocols.clear();

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));

    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    HttpsClient {
        client: Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector),
    }
}

impl<B> Clone for HttpsClient<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
        }
    }
}

impl<B> fmt::Debug for HttpsClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsClient").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for HttpsClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = HttpsError;
    type Future = HttpsFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx).map_err(HttpsError)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        HttpsFuture {
            response: self.client.call(request),
        }
    }
}

/// The future of [`HttpsClient`].
#[must_use = "futures do nothing unless polled"]
pub struct HttpsFuture {
    response: ResponseFuture,
}

impl Future for HttpsFuture {
    type Output = Result<Response<Incoming>, HttpsError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.response).poll(cx).map_err(HttpsError)
    }
}

impl fmt::Debug for HttpsFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsFuture").finish_non_exhaustive()
    }
}

/// The error of [`HttpsClient`]: a request got no response.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpsError(legacy::Error);

impl HttpsError {
    /// Whether no connection was established: the name was not resolved, the
    /// server could not be reached, or the TLS handshake failed.
    pub fn is_connect(&self) -> bool {
        self.0.is_connect()
    }
}
