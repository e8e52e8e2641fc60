//! Tokens that are bound to a client certificate (RFC 8705), on both sides: a client that presents the certificate, and a
//! server that compares it with the token.
//!
//! ```sh
//! cargo run --all-features --example mutual_tls
//! ```
//!
//! The authority, the issuer and the server are in this process. A thief who has the token has another certificate.

use std::{convert::Infallible, fs, net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};
use tower::{BoxError, Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, Identity, Origin, TokenValidator, TokenValidatorLayer, UpstreamInject,
    UpstreamToken,
    client::hyper::{CertificateSource, HttpsClient},
    incoming::ClientCertificate,
    testing::TestIssuer,
};

const AUDIENCE: &str = "https://api.example.com";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let authority = Authority::new()?;
    let issuer = TestIssuer::new("https://idp.example.com");
    let server = start_server(&authority, &issuer).await?;
    let origin = Origin::try_from(format!("https://localhost:{}", server.port()))?;

    // The files that the platform writes, and replaces before the certificate expires.
    let folder = tempfile::tempdir()?;
    let (certificate, key) = authority.issue("gateway")?;
    let (certificate_file, key_file) =
        (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    fs::write(&certificate_file, pem("CERTIFICATE", &certificate))?;
    fs::write(&key_file, pem("PRIVATE KEY", key.serialized_der()))?;
    let gateway = CertificateSource::files(certificate_file, key_file)?;

    // An issuer binds the token to the certificate with which the client came to its token endpoint.
    let thumbprint = ClientCertificate::from_der(&certificate).thumbprint();
    let token = issuer
        .token("alice")
        .audience(AUDIENCE)
        .claim("cnf", json!({ "x5t#S256": thumbprint }))
        .sign();
    let alice = Identity::builder("alice")
        .upstream("idp", UpstreamToken::new(AccessToken::new(token)?))
        .build()?;

    let (certificate, key) = authority.issue("thief")?;
    let key = tower_identity::Secret::new(pem("PRIVATE KEY", key.serialized_der()))?;
    let thief = CertificateSource::pem(pem("CERTIFICATE", &certificate), &key)?;

    for (who, certificate, expected) in [
        ("the gateway", gateway, StatusCode::OK),
        (
            "a thief with the same token",
            thief,
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        let https_client = HttpsClient::<Full<Bytes>>::builder()
            .authorities(pem("CERTIFICATE", &authority.certificate))
            .client_certificate(certificate)
            .build()?;
        let client =
            AuthLayer::new(origin.clone(), UpstreamInject::new("idp")?).layer(https_client);
        let mut request = Request::get(format!("{origin}/")).body(Full::default())?;
        request.extensions_mut().insert(alice.clone());
        let response = client.oneshot(request).await?;
        println!("{who}: {}", response.status());
        assert_eq!(response.status(), expected);
    }
    Ok(())
}

/// An API that demands a certificate of the authority, and a token.
async fn start_server(authority: &Authority, issuer: &TestIssuer) -> Result<SocketAddr, BoxError> {
    let validator = TokenValidator::builder(issuer.url(), issuer.clone())
        .audience(AUDIENCE)
        .build()?;
    let api = TokenValidatorLayer::new(validator).layer(tower::service_fn(answer));
    let acceptor = TlsAcceptor::from(Arc::new(authority.server_config()?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, api) = (acceptor.clone(), api.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                // Once per connection: the handshake has proved that the client has the key of this certificate.
                let presented = tls.get_ref().1.peer_certificates();
                let certificate = presented
                    .and_then(|chain| chain.first())
                    .map(|certificate| ClientCertificate::from_der(certificate));
                let service = service_fn(move |mut request: Request<Incoming>| {
                    if let Some(certificate) = certificate {
                        request.extensions_mut().insert(certificate);
                    }
                    api.clone().oneshot(request)
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request.extensions().get::<Identity>();
    println!("the server sees: {:?}", caller.map(Identity::subject));
    Ok(Response::default())
}

/// A certificate authority. Outside of this example it is not in the process.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl Authority {
    fn new() -> Result<Self, BoxError> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        Ok(Self {
            certificate: parameters.self_signed(&key)?.der().to_vec(),
            issuer: Issuer::new(parameters, key),
        })
    }

    fn issue(&self, name: &str) -> Result<(Vec<u8>, KeyPair), BoxError> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().to_vec(), key))
    }

    fn server_config(&self) -> Result<ServerConfig, BoxError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut clients = RootCertStore::empty();
        clients.add(CertificateDer::from(self.certificate.clone()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(clients.into(), provider.clone());
        let (certificate, key) = self.issue("localhost")?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(vec![certificate.into()], key)?)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}
