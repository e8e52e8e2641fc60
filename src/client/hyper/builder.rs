use std::{fmt, marker::PhantomData};

use http_body::Body;
use rustls::ClientConfig;

use crate::error::{BuildError, Faults};

use super::{CertificateSource, HttpsClient, authorities, config_trusting, system_config};

/// Builds an [`HttpsClient`].
///
/// Needs the feature `hyper`.
///
/// [`https_client`](super::https_client) is shorter where nothing is set.
#[must_use = "nothing is checked before `build`"]
pub struct HttpsClientBuilder<B> {
    authorities: Vec<u8>,
    tls: Option<ClientConfig>,
    certificate: Option<CertificateSource>,
    body: PhantomData<fn(B)>,
}

impl<B> HttpsClientBuilder<B> {
    pub(super) fn new() -> Self {
        Self {
            authorities: Vec::new(),
            tls: None,
            certificate: None,
            body: PhantomData,
        }
    }

    /// Adds the certificate authorities in `pem` to those of the operating system, as
    /// [`https_client_trusting`](super::https_client_trusting) does.
    pub fn authorities(mut self, pem: impl AsRef<[u8]>) -> Self {
        // Between two files.
        self.authorities.push(b'\n');
        self.authorities.extend_from_slice(pem.as_ref());
        self
    }

    /// Sets your own TLS settings, as [`https_client_with`](super::https_client_with) does. Then the system's authorities are
    /// not trusted, unless they are in the settings.
    ///
    /// Sessions are resumed as `config` says, also where the client has a [certificate](Self::client_certificate) that may be
    /// replaced: a session in which another certificate was presented is not resumed. To switch resumption off, set
    /// `config.resumption` to `Resumption::disabled()`.
    ///
    /// `config` is a type of rustls 0.23. A release of this crate that moves to another version of rustls changes it.
    pub fn tls(mut self, config: ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the certificate that the client presents to a server that asks for one (mutual TLS). By default none, or that
    /// of the [TLS settings](Self::tls).
    pub fn client_certificate(mut self, certificate: CertificateSource) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Creates the client. Call it once and clone the client.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `authorities` has no certificate, or a part that is not a certificate.
    /// - `authorities` is missing, as is `tls`, and the system has no usable certificate authority.
    /// - `authorities` is set beside `tls`.
    pub fn build(self) -> Result<HttpsClient<B>, BuildError>
    where
        B: Body + Send,
        B::Data: Send,
    {
        let mut faults = Faults::new("HttpsClient");
        let config = match (self.tls, self.authorities.is_empty()) {
            (Some(config), true) => Some(config),
            (Some(_), false) => {
                faults.add("authorities", "is set beside `tls`; add them to its roots");
                None
            }
            (None, true) => {
                let config = system_config().map_err(|_| {
                    "is missing, and the operating system has no usable certificate authority; give yours"
                });
                faults.take("authorities", config)
            }
            (None, false) => {
                let config = authorities(&self.authorities).and_then(config_trusting);
                faults.take("authorities", config.map_err(|error| error.to_string()))
            }
        };
        let config = faults.or(config)?;
        Ok(HttpsClient::new(config, self.certificate))
    }
}

impl<B> fmt::Debug for HttpsClientBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsClientBuilder")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
