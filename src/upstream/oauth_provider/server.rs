use std::{sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind, BuildError},
    incoming::issuer::ServerDiscovery,
    oauth::{
        client_auth::ClientAuth,
        http_client::HttpClient,
        token_endpoint::{TokenEndpoint, builder::TokenEndpointBuilder},
    },
};

use super::{super::bound_key::Keys, document_url::document_path, settings::ProviderSettings};

const METADATA_AGE: Duration = Duration::from_secs(3600);

/// The way to the endpoints of a provider.
pub(super) enum Endpoints {
    Known(Arc<Server>),
    Discovered(Discovered),
}

impl Endpoints {
    /// Reads the metadata when it is needed, once at a time, and again before it is old.
    pub(super) fn discovered(source: Source) -> Self {
        Self::Discovered(Discovered {
            cache: CredentialCache::builder()
                .capacity(16)
                .clock(Arc::clone(&source.clock))
                .make(),
            key: CacheScope::new("provider metadata").key_for_client(),
            source: Arc::new(source),
        })
    }

    pub(super) async fn server(&self) -> Result<Arc<Server>, AuthError> {
        match self {
            Self::Known(server) => Ok(Arc::clone(server)),
            Self::Discovered(discovered) => {
                let source = Arc::clone(&discovered.source);
                let cache = &discovered.cache;
                let server = cache.obtain(discovered.key, None, move || async move {
                    let server = Arc::new(source.read().await?);
                    Ok(Obtained::new(server).expires_in(METADATA_AGE))
                });
                server.await
            }
        }
    }
}

pub(super) struct Discovered {
    source: Arc<Source>,
    cache: CredentialCache<Arc<Server>>,
    key: CacheKey,
}

pub(super) struct Source {
    pub(super) discovery: ServerDiscovery,
    pub(super) settings: ProviderSettings,
    pub(super) client_auth: ClientAuth,
    pub(super) client: HttpClient,
    pub(super) presents_certificate: bool,
    pub(super) client_is_registered: bool,
    pub(super) insecure: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) binding: Binding,
}

/// Whether the provider's tokens are bound to a key.
#[derive(Clone, Default)]
pub(super) struct Binding {
    pub(super) keys: Option<Keys>,
    #[cfg(feature = "dpop")]
    pub(super) allows_bearer_tokens: bool,
}

#[cfg(feature = "dpop")]
impl Binding {
    fn bind(&self, builder: TokenEndpointBuilder) -> TokenEndpointBuilder {
        match &self.keys {
            Some(keys) if self.allows_bearer_tokens => {
                builder.dpop(keys.clone()).allow_bearer_tokens()
            }
            Some(keys) => builder.dpop(keys.clone()),
            None => builder,
        }
    }

    /// Fails where the provider says that it does not accept the proofs of the keys.
    fn check(&self, algorithms: Option<&[String]>) -> Result<(), AuthError> {
        let (Some(keys), Some(algorithms)) = (&self.keys, algorithms) else {
            return Ok(());
        };
        let algorithm = keys.algorithm().name();
        if algorithms.iter().any(|supported| supported == algorithm) {
            return Ok(());
        }
        Err(AuthError::new(
            AuthErrorKind::Configuration,
            format!(
                "the provider's metadata does not have {algorithm}, the algorithm of the DPoP key, in \
                 `dpop_signing_alg_values_supported`; use a key with another algorithm"
            ),
        ))
    }
}

/// The endpoints of a provider.
pub(super) struct Server {
    pub(super) authorization: String,
    pub(super) token: TokenEndpoint,
    pub(super) names_itself: bool,
}

impl Source {
    async fn read(&self) -> Result<Server, AuthError> {
        let read = self.discovery.read(self.presents_certificate).await?;
        if read.refuses_s256 {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the provider's metadata says that it does not support PKCE with S256 (RFC 7636), which is required",
            ));
        }
        let has_document = document_path(self.client_auth.client_id()).is_ok();
        if has_document && !self.client_is_registered && !read.reads_client_documents {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the client's ID is a URL, but the provider's metadata does not say that it reads Client ID Metadata Documents \
                 (`client_id_metadata_document_supported`); register a client there",
            ));
        }
        #[cfg(feature = "dpop")]
        self.binding.check(read.dpop_algorithms.as_deref())?;
        let token = TokenEndpoint::of_client(read.token_endpoint, self.client.clone());
        let token = endpoint(
            token,
            &self.settings,
            &self.client_auth,
            self.insecure,
            &self.clock,
            &self.binding,
        );
        Ok(Server {
            authorization: read.authorization_endpoint,
            token: token.map_err(|error| {
                let fault = "the provider's metadata names a token endpoint that cannot be used";
                AuthError::new(AuthErrorKind::Unavailable, fault).with_source(error)
            })?,
            names_itself: read.names_itself,
        })
    }
}

pub(super) fn endpoint(
    builder: TokenEndpointBuilder,
    settings: &ProviderSettings,
    client_auth: &ClientAuth,
    insecure: bool,
    clock: &Arc<dyn Clock>,
    binding: &Binding,
) -> Result<TokenEndpoint, BuildError> {
    let builder = builder
        .client_auth(client_auth.clone())
        .dialect(settings.dialect)
        .clock(Arc::clone(clock));
    #[cfg(feature = "dpop")]
    let builder = binding.bind(builder);
    #[cfg(not(feature = "dpop"))]
    let _ = binding.keys;
    let builder = if insecure {
        builder.insecure()
    } else {
        builder
    };
    builder.build()
}
