//! A server on loopback that asks for client certificates, and says which one it got.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::{
    authority::Authority,
    http_server::{ServerBody, server_body},
};

/// The certificate of the connection that a request came over, as an extension, and the number of the connection.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) connection: usize,
}

/// A server for `localhost`. It ends when it is dropped.
pub(crate) struct MutualTlsServer {
    port: u16,
    accepting: AbortHandle,
    open: Arc<AtomicUsize>,
}

impl MutualTlsServer {
    /// Demands a certificate of this authority, which also issues the server's. It answers with the
    /// [thumbprint](thumbprint) and the number of the connection, in a body that ends after the first request for `/slow`
    /// does.
    pub(crate) async fn start(authority: &Authority) -> Self {
        Self::start_with(authority, true, async |request: Request<Incoming>| {
            let peer = request.extensions().get::<Peer>().unwrap();
            let certificate = peer.certificate.as_ref();
            let presented = certificate.map_or("none".to_owned(), |der| thumbprint(der));
            let said = format!("{presented} {}", peer.connection);
            // What the client sends decides when the answer ends.
            match request.uri().path() {
                "/echo" => Response::new(request.into_body().map_err(Into::into).boxed()),
                _ => Response::new(server_body(Full::new(Bytes::from(said)))),
            }
        })
        .await
    }

    /// As [`start`](Self::start), with a handler. A client may be asked for a certificate without having to present one.
    pub(crate) async fn start_with<F, R>(
        authority: &Authority,
        demands_certificate: bool,
        handler: F,
    ) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<ServerBody>> + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(Arc::new(config(authority, demands_certificate)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let accepting = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((tcp, _)) = listener.accept().await {
                connection += 1;
                let (acceptor, handler) = (acceptor.clone(), handler.clone());
                let open = counted.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let presented = tls.get_ref().1.peer_certificates();
                    let peer = Peer {
                        certificate: presented.and_then(|chain| chain.first().cloned()),
                        connection,
                    };
                    let service = service_fn(move |mut request| {
                        request.extensions_mut().insert(peer.clone());
                        let response = handler(request);
                        async { Ok::<_, Infallible>(response.await) }
                    });
                    open.fetch_add(1, Relaxed);
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                    open.fetch_sub(1, Relaxed);
                });
            }
        });
        Self {
            port,
            accepting: accepting.abort_handle(),
            open,
        }
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }
}

impl Drop for MutualTlsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn config(authority: &Authority, demands_certificate: bool) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes());
    roots.add(root.unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = match demands_certificate {
        true => verifier,
        false => verifier.allow_unauthenticated(),
    };
    let (certificate, key) = authority.issue("localhost");
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The thumbprint of a certificate in DER, as `x5t#S256` has it.
pub(crate) fn thumbprint(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(der))
}

/// The thumbprint of the first certificate in PEM.
pub(crate) fn thumbprint_of_pem(pem: &str) -> String {
    thumbprint(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}
