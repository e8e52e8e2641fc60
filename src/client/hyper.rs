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

use std::{io, sync::Arc, time::Duration};

use http_body::Body;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, crypto::aws_lc_rs};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTPS client for requests with the body `B`.
///
/// Cheap to clone; clones share the connections.
pub type HttpsClient<B> = Client<HttpsConnector<HttpConnector>, B>;

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
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}
