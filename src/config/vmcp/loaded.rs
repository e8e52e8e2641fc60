use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Uri;

use crate::{
    config::error::ConfigFault,
    origin::Origin,
    outgoing::{auth::layer::AuthLayer, headers::HeaderForwardLayer},
    strategy::strategy::Strategy,
};

use super::{
    backend::{Target, VmcpBackendConfig},
    incoming_auth::Incoming,
};

/// The parts that the file of a vMCP configures, built by [`VmcpConfig::build`](super::VmcpConfig::build).
///
/// Needs the feature `config`.
///
/// `B` is the body of the requests to the backends. See [`VmcpConfig`](super::VmcpConfig) for an example.
pub struct Vmcp<B> {
    #[cfg_attr(not(feature = "incoming"), expect(dead_code))]
    incoming: Incoming,
    backends: Vec<VmcpBackend<B>>,
    unread: Vec<ConfigFault>,
}

impl<B> Vmcp<B> {
    pub(super) fn new(
        incoming: Incoming,
        backends: Vec<VmcpBackend<B>>,
        unread: Vec<ConfigFault>,
    ) -> Self {
        Self {
            incoming,
            backends,
            unread,
        }
    }

    /// The validator for the tokens of callers. It is `None` for the `type` `anonymous`, and where the application
    /// handles `incomingAuth`.
    ///
    /// Needs the feature `incoming`.
    #[cfg(feature = "incoming")]
    pub fn token_validator(&self) -> Option<&crate::TokenValidator> {
        self.incoming.validator.as_ref()
    }

    /// The backends, in the order of the file.
    pub fn backends(&self) -> &[VmcpBackend<B>] {
        &self.backends
    }

    /// The keys of the file that nothing was built of, with the reason.
    pub fn unread(&self) -> &[ConfigFault] {
        &self.unread
    }
}

impl<B> fmt::Debug for Vmcp<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmcp")
            .field("backends", &self.backends)
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

/// One backend of a [`Vmcp`]: its URL, the layers for its requests, and the client beneath them.
///
/// Needs the feature `config`.
///
/// ```no_run
/// # #[cfg(feature = "hyper")]
/// # fn example(
/// #     vmcp: tower_identity::config::Vmcp<http_body_util::Full<bytes::Bytes>>,
/// # ) -> Result<(), tower::BoxError> {
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceBuilder;
///
/// for backend in vmcp.backends() {
///     let client = ServiceBuilder::new()
///         .layer(backend.header_forward_layer())
///         .layer(backend.auth_layer())
///         .service(backend.https_client::<Full<Bytes>>()?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct VmcpBackend<B> {
    name: String,
    target: Target,
    auth: AuthLayer<Arc<dyn Strategy<B>>>,
    headers: HeaderForwardLayer,
}

impl<B> VmcpBackend<B> {
    pub(super) fn new(
        config: &VmcpBackendConfig,
        target: Target,
        auth: AuthLayer<Arc<dyn Strategy<B>>>,
        headers: HeaderForwardLayer,
    ) -> Self {
        Self {
            name: config.name.clone(),
            target,
            auth,
            headers,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its MCP endpoint.
    pub fn url(&self) -> &Uri {
        &self.target.url
    }

    /// The origin that its credentials are for.
    pub fn origin(&self) -> &Origin {
        &self.target.origin
    }

    /// The layer that adds the credential.
    pub fn auth_layer(&self) -> AuthLayer<Arc<dyn Strategy<B>>> {
        self.auth.clone()
    }

    /// The layer that forwards `passthroughHeaders`. An outgoing request needs the
    /// [captured](HeaderForwardLayer::captured) headers among its extensions.
    pub fn header_forward_layer(&self) -> HeaderForwardLayer {
        self.headers.clone()
    }

    /// The certificate authorities of `caBundlePath` in PEM, for another client.
    pub fn ca_bundle(&self) -> Option<&Bytes> {
        Some(self.target.ca_bundle.as_ref()?.pem())
    }

    /// A client that trusts the operating system's certificate authorities and those of `caBundlePath`.
    ///
    /// Needs the feature `hyper`.
    ///
    /// # Errors
    ///
    /// As [`https_client`](crate::client::hyper::https_client).
    #[cfg(feature = "hyper")]
    pub fn https_client<C>(&self) -> std::io::Result<crate::client::hyper::HttpsClient<C>>
    where
        C: http_body::Body + Send,
        C::Data: Send,
    {
        match self.ca_bundle() {
            Some(pem) => crate::client::hyper::https_client_trusting(pem),
            None => crate::client::hyper::https_client(),
        }
    }
}

impl<B> fmt::Debug for VmcpBackend<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmcpBackend")
            .field("name", &self.name)
            .field("origin", &self.target.origin)
            .field("auth", &self.auth)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
