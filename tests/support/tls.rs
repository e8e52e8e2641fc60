//! TLS on loopback: a server for `localhost`, and clients that trust it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use rcgen::CertifiedKey;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};
use tower_identity::client::hyper::{HttpsClient, https_client_with};

use super::http_server::{HttpServer, ServerBody, ok};

/// A server for `localhost`, and the certificate that it shows.
pub(crate) async fn start_tls(alpn: &[&str]) -> (HttpServer, CertificateDer<'static>) {
    start_tls_with(alpn, async |_| ok()).await
}

/// As [`start_tls`], with a handler.
pub(crate) async fn start_tls_with<F, R>(
    alpn: &[&str],
    handler: F,
) -> (HttpServer, CertificateDer<'static>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<ServerBody>> + Send + 'static,
{
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = HttpServer::start_over(move |tcp| acceptor.accept(tcp), handler).await;
    (server, cert.der().clone())
}

/// A client that trusts this certificate.
pub(crate) fn trusting(certificate: Option<CertificateDer<'static>>) -> HttpsClient<Full<Bytes>> {
    https_client_with(config(certificate))
}

pub(crate) fn config(certificate: Option<CertificateDer<'static>>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificate);
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
