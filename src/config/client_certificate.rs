use std::{collections::BTreeMap, fmt};

use crate::{
    TokenEndpoint,
    error::Faults,
    oauth::{
        client_auth::ClientAuth, http_client::HttpClient,
        token_endpoint::builder::TokenEndpointBuilder,
    },
};

#[cfg(feature = "hyper")]
use crate::client::hyper::CertificateSource;

use super::{
    block::Block,
    kind::{Value, keys},
    resources::by_name,
};

keys! {
    /// The certificate that a client authenticates with, in place of a secret (mutual TLS, RFC 8705 §2). The application's
    /// HTTP client presents it, so that the application has the certificate and its key.
    pub struct ClientCertificateConfig {
        /// The name by which the application registered the HTTP client that presents the certificate. By default it is the
        /// client of all other token endpoints.
        #[serde(skip_serializing_if = "Option::is_none")]
        "name" => name: Option<String>,
        /// How the client is registered at the endpoint: `tls_client_auth` (the default), by the subject of the certificate,
        /// or `self_signed_tls_client_auth`, by the certificate itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        "method" => method: Option<String>,
    }
}

impl ClientCertificateConfig {
    /// The certificate of the HTTP client that the application registered by this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            method: None,
        }
    }
}

impl Value for Option<ClientCertificateConfig> {
    fn read(members: &mut super::document::Members<'_>, key: &str) -> Self {
        members.block(key, &[])
    }
}

/// An HTTP client that presents a certificate.
pub(super) struct Presenting {
    client: HttpClient,
    #[cfg(feature = "hyper")]
    certificate: Option<CertificateSource>,
}

impl Presenting {
    pub(super) fn new(client: HttpClient) -> Self {
        Self {
            client,
            #[cfg(feature = "hyper")]
            certificate: None,
        }
    }

    pub(super) fn token_endpoint(&self, url: &str) -> TokenEndpointBuilder {
        let builder = TokenEndpoint::of_client(url, self.client.clone());
        #[cfg(feature = "hyper")]
        if let Some(certificate) = &self.certificate {
            return builder.client_certificate(certificate.clone());
        }
        builder
    }
}

impl fmt::Debug for Presenting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presenting").finish_non_exhaustive()
    }
}

/// The clients by their names, which are checked, and which certificate each presents, where that is known.
pub(super) fn checked(
    named: Vec<(String, Presenting)>,
    #[cfg(feature = "hyper")] sources: Vec<(String, CertificateSource)>,
    faults: &mut Faults,
) -> BTreeMap<String, Presenting> {
    let clients = by_name("client_certificate", "client", named, faults);
    #[cfg(feature = "hyper")]
    let clients = with_sources(clients, sources, faults);
    clients
}

#[cfg(feature = "hyper")]
fn with_sources(
    mut clients: BTreeMap<String, Presenting>,
    sources: Vec<(String, CertificateSource)>,
    faults: &mut Faults,
) -> BTreeMap<String, Presenting> {
    for (index, (name, source)) in sources.into_iter().enumerate() {
        match clients.get_mut(&name) {
            Some(client) => client.certificate = Some(source),
            None => faults.add(
                format!("client_certificate_source[{index}]"),
                "has the name of no client, register it with `client_certificate`",
            ),
        }
    }
    clients
}

impl<B> Block<'_, B> {
    /// How a client with the certificate of the block at `at` authenticates.
    pub(super) fn client_with_certificate(
        &mut self,
        at: &str,
        config: &ClientCertificateConfig,
    ) -> Option<fn(String) -> ClientAuth> {
        if let Some(name) = &config.name
            && self.resources.presenting(name).is_none()
        {
            self.fault(
                &format!("{at}.name"),
                "is the name of no client with a certificate; register it with `ResourcesBuilder::client_certificate`",
            );
        }
        match config.method.as_deref() {
            None | Some("tls_client_auth") => Some(ClientAuth::tls_client_auth),
            Some("self_signed_tls_client_auth") => Some(ClientAuth::self_signed_tls_client_auth),
            Some(_) => {
                self.fault(
                    &format!("{at}.method"),
                    "is neither `tls_client_auth` nor `self_signed_tls_client_auth`",
                );
                None
            }
        }
    }
}
