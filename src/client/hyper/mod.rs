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
//! - The client presents a certificate to servers that ask for one, if it has a [`CertificateSource`] (mutual TLS).
//! - A trailer with the name of a credential on the request [is not sent](crate::AuthLayer#trailers).
//! - A relative URI is an error.

mod builder;
mod certificate_source;

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
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

pub use builder::HttpsClientBuilder;
pub use certificate_source::CertificateSource;
use certificate_source::FixedResolver;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTPS client for requests with the body `B`.
///
/// Needs the feature `hyper`.
///
/// [`https_client`], [`https_client_trusting`] and [`https_client_with`] create it, and with more settings its
/// [builder](Self::builder). The [module](self) has an example, and says what the client does.
///
/// A clone is cheap and shares the connections.
pub struct HttpsClient<B> {
    connections: Connections<B>,
}

enum Connections<B> {
    /// Of a client without a [`CertificateSource`].
    Fixed(Pool<B>),
    /// Of a client whose certificate may be replaced. All its clones share the current pool, and nobody keeps an older one.
    Rotating(Arc<Rotating<B>>),
}

type Pool<B> = Arc<Client<HttpsConnector<HttpConnector>, CheckedTrailers<B>>>;

struct Rotating<B> {
    certificate: CertificateSource,
    config: ClientConfig,
    /// The connections that present the certificate with this number.
    current: RwLock<(u64, Pool<B>)>,
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
    Ok(https_client_with(system_config()?))
}

fn system_config() -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_native_roots()?
        .with_no_client_auth();
    Ok(config)
}

/// Creates a client with your own TLS settings.
///
/// Needs the feature `hyper`.
///
/// Use it for example to trust a private certificate authority alone. The client replaces the ALPN protocols in `config`
/// with those that it speaks. A [builder](HttpsClient::builder) also takes a client certificate.
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
pub fn https_client_with<B>(config: ClientConfig) -> HttpsClient<B>
where
    B: Body + Send,
    B::Data: Send,
{
    HttpsClient::new(config, None)
}

fn pool<B>(mut config: ClientConfig) -> Pool<B>
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
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector);
    Arc::new(client)
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
    Ok(https_client_with(config_trusting(authorities(pem)?)?))
}

/// Trusts the system's authorities, too.
fn config_trusting(mut roots: RootCertStore) -> io::Result<ClientConfig> {
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
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

impl<B> HttpsClient<B> {
    /// Starts a client that trusts the operating system's certificate authorities.
    ///
    /// ```no_run
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower_identity::client::hyper::{CertificateSource, HttpsClient};
    ///
    /// let certificate = CertificateSource::files(
    ///     "/var/run/tls/tls.crt",
    ///     "/var/run/tls/tls.key",
    /// )?;
    /// let client = HttpsClient::<Full<Bytes>>::builder()
    ///     .authorities(std::fs::read("/etc/ssl/our-authority.pem")?)
    ///     .client_certificate(certificate)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> HttpsClientBuilder<B> {
        HttpsClientBuilder::new()
    }
}

impl<B> HttpsClient<B>
where
    B: Body + Send,
    B::Data: Send,
{
    fn new(config: ClientConfig, certificate: Option<CertificateSource>) -> Self {
        let connections = match certificate {
            None => Connections::Fixed(pool(config)),
            Some(certificate) => Connections::Rotating(Arc::new(Rotating {
                current: RwLock::new(presenting(&config, &certificate)),
                certificate,
                config,
            })),
        };
        Self { connections }
    }
}

/// Connections that present the current certificate, and its number. Rustls resumes no session of another resolver, so none
/// in which another certificate was presented.
fn presenting<B>(config: &ClientConfig, certificate: &CertificateSource) -> (u64, Pool<B>)
where
    B: Body + Send,
    B::Data: Send,
{
    let current = certificate.current();
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(FixedResolver(current.certified_key));
    (current.number, pool(config))
}

impl<B> Rotating<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// The connections that present the current certificate.
    fn pool(&self) -> Pool<B> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.0 == self.certificate.number() {
            return Arc::clone(&current.1);
        }
        drop(current);
        self.new_pool()
    }

    #[cold]
    fn new_pool(&self) -> Pool<B> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.0 != self.certificate.number() {
            *current = presenting(&self.config, &self.certificate);
        }
        Arc::clone(&current.1)
    }

    /// Reads the files of the certificate first, because the one that is known has expired.
    #[cold]
    fn send_after_look(self: Arc<Self>, request: Request<CheckedTrailers<B>>) -> State {
        State::Looking(Box::pin(async move {
            self.certificate.looked().await;
            self.pool().request(request).await
        }))
    }
}

impl<B> Clone for HttpsClient<B> {
    fn clone(&self) -> Self {
        Self {
            connections: match &self.connections {
                Connections::Fixed(pool) => Connections::Fixed(Arc::clone(pool)),
                Connections::Rotating(rotating) => Connections::Rotating(Arc::clone(rotating)),
            },
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

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A pool always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = CheckedTrailers::of(request);
        let state = match &self.connections {
            Connections::Fixed(pool) => State::Sent(pool.request(request)),
            Connections::Rotating(rotating) if rotating.certificate.look() => {
                Arc::clone(rotating).send_after_look(request)
            }
            Connections::Rotating(rotating) => State::Sent(rotating.pool().request(request)),
        };
        HttpsFuture { state }
    }
}

/// The future of [`HttpsClient`].
///
/// Needs the feature `hyper`.
///
/// [`https_client`] has an example.
#[must_use = "futures do nothing unless polled"]
pub struct HttpsFuture {
    state: State,
}

enum State {
    Sent(ResponseFuture),
    Looking(Pin<Box<dyn Future<Output = Result<Response<Incoming>, legacy::Error>> + Send>>),
}

impl Future for HttpsFuture {
    type Output = Result<Response<Incoming>, HttpsError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.state {
            State::Sent(response) => Pin::new(response).poll(cx),
            State::Looking(response) => response.as_mut().poll(cx),
        };
        response.map_err(HttpsError)
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
