//! A ready-made HTTPS client, built from hyper-util and rustls.
//!
//! Needs the feature `hyper`.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::Layer;
//! use tower_identity::{
//!     AuthLayer, Origin, UpstreamInject, client::hyper::https_client,
//! };
//!
//! let http_client = https_client::<Full<Bytes>>()?;
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let strategy = UpstreamInject::new("github")?;
//! let client = AuthLayer::new(origin, strategy).layer(http_client);
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! # What it does
//!
//! - The client speaks HTTP/2 with a server that offers it (by ALPN), and HTTP/1.1 otherwise. Bodies stream in both
//!   directions.
//! - The client uses TLS 1.2 and 1.3 with rustls and aws-lc-rs, even if the process has installed another default
//!   provider.
//! - The client sends requests with an `http` URI in plain text. An [`Origin`](crate::Origin) decides whether a
//!   credential may go there.
//! - Establishing a TCP connection is limited to 10 seconds. The TLS handshake, the response and its body have no limit,
//!   because an event stream may stay open for hours. Add tower's `TimeoutLayer` to limit the time until the headers of
//!   the response arrive.
//! - An idle connection is kept for reuse for 90 seconds, hyper-util's default.
//! - The client follows no redirects.
//! - A trailer with the name of a credential on the request [is not sent](crate::AuthLayer#trailers).
//! - A relative URI is an error.

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
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use tower::{BoxError, Service};

use super::checked_trailers::CheckedTrailers;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTPS client for requests with the body `B`.
///
/// Needs the feature `hyper`.
///
/// [`https_client`], [`https_client_trusting`] and [`https_client_with`] create it. See the [module](self) for what it does.
///
/// A clone is cheap and shares the connections.
pub struct HttpsClient<B> {
    client: Client<HttpsConnector<HttpConnector>, CheckedTrailers<B>>,
}

/// Creates a client that trusts the operating system's certificate authorities.
///
/// Needs the feature `hyper`.
///
/// The function reads the certificates from disk. Call it once and clone the client.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_identity::client::hyper::https_client;
///
/// let client = https_client::<Full<Bytes>>()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// The function fails if the system has no usable certificate authority. Pass your own to [`https_client_with`].
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

/// Creates a client with your own TLS settings.
///
/// Needs the feature `hyper`.
///
/// Use it for example for a private certificate authority or a client certificate. The client replaces the ALPN
/// protocols in `config` with those that it speaks.
///
/// `config` is a type of rustls 0.23. A release of this crate that moves to another version of rustls changes it.
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tokio_rustls::rustls::{
///     ClientConfig, RootCertStore, crypto::aws_lc_rs,
///     pki_types::CertificateDer,
/// };
/// use tower_identity::client::hyper::{HttpsClient, https_client_with};
///
/// fn trusting(
///     authority: CertificateDer<'static>,
/// ) -> Result<HttpsClient<Full<Bytes>>, tokio_rustls::rustls::Error> {
///     let mut roots = RootCertStore::empty();
///     roots.add(authority)?;
///     let provider = Arc::new(aws_lc_rs::default_provider());
///     let config = ClientConfig::builder_with_provider(provider)
///         .with_safe_default_protocol_versions()?
///         .with_root_certificates(roots)
///         .with_no_client_auth();
///     Ok(https_client_with(config))
/// }
/// ```
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

/// Creates a client that trusts the operating system's certificate authorities, and those in `pem`.
///
/// Needs the feature `hyper`.
///
/// `pem` is the content of a file with one or several certificates, for example of a private authority. The function
/// reads the system's certificates from disk. Call it once and clone the client.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_identity::client::hyper::https_client_trusting;
///
/// let pem = std::fs::read("/etc/ssl/our-authority.pem")?;
/// let client = https_client_trusting::<Full<Bytes>>(&pem)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`], if `pem` has no certificate, or something that is none. A system without usable
/// authorities is no error.
pub fn https_client_trusting<B>(pem: &[u8]) -> io::Result<HttpsClient<B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut roots = authorities(pem)?;
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(https_client_with(config))
}

/// The error says what is in the file, as the end of a sentence.
pub(crate) fn authorities(pem: &[u8]) -> io::Result<RootCertStore> {
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| invalid("is no valid PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| invalid("has a certificate that cannot be read"))?;
    }
    if roots.is_empty() {
        return Err(invalid("has no certificate in PEM"));
    }
    Ok(roots)
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
            response: self.client.call(CheckedTrailers::of(request)),
        }
    }
}

/// The future of [`HttpsClient`].
///
/// Needs the feature `hyper`.
///
/// [`https_client`] has an example.
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

/// The error of an [`HttpsClient`] whose request got no response.
///
/// Needs the feature `hyper`.
///
/// The cause is its [`source`](std::error::Error::source), for example an [`io::Error`].
///
/// [`https_client`] has an example.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpsError(legacy::Error);

impl HttpsError {
    /// Returns whether the connection failed, so that the server did not receive the request.
    ///
    /// For example, the host name was not resolved, the server was unreachable or the TLS handshake failed.
    pub fn is_connect(&self) -> bool {
        self.0.is_connect()
    }
}
