mod document_url;
mod settings;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    incoming::{
        issuer::{Issuer, ServerDiscovery},
        validator::{TokenValidator, builder::TokenValidatorBuilder},
    },
    oauth::{
        client_auth::ClientAuth, http_client::HttpClient, request::TokenRequest,
        token_endpoint::TokenEndpoint,
    },
    secret::Secret,
};

use super::{
    ProviderTokens, Refreshed, Refresher, UpstreamFuture,
    provider::{Provider, ProviderBuilder},
    refresher::{refresh_at, tokens_of},
};

pub(super) use document_url::document_path;
use settings::Place;
pub use settings::ProviderSettings;

const METADATA_AGE: Duration = Duration::from_secs(3600);

/// This application as a client of one provider: the provider's [settings](ProviderSettings),
/// and how the client authenticates there.
///
/// Needs the feature `linking`.
///
/// It refreshes tokens (it is a [`Refresher`]), and
/// [`AccountLinking`](crate::AccountLinking) uses it to link accounts. A clone costs one
/// reference count.
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{
///     ClientAuth, MemoryStore, Secret, UpstreamTokens,
///     upstream::{OAuthProvider, ProviderSettings},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let settings = ProviderSettings::github().scopes(["repo"]);
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let client_auth = ClientAuth::post("Iv1.8a61f9b3a7aba766", secret);
/// let github = OAuthProvider::builder(settings, client_auth, client).build()?;
///
/// let provider = github.provider("github").optional().build()?;
/// let upstream = UpstreamTokens::new(MemoryStore::new(), [provider]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OAuthProvider {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProviderSettings,
    client_auth: ClientAuth,
    endpoints: Endpoints,
    id_tokens: Option<TokenValidator>,
}

enum Endpoints {
    Known(Arc<Server>),
    Discovered(Discovered),
}

struct Discovered {
    source: Arc<Source>,
    /// Reads the metadata once at a time, and again before it is old.
    cache: CredentialCache<Arc<Server>>,
    key: CacheKey,
}

struct Source {
    discovery: ServerDiscovery,
    settings: ProviderSettings,
    client_auth: ClientAuth,
    client: HttpClient,
    client_is_registered: bool,
    insecure: bool,
    clock: Arc<dyn Clock>,
}

/// The endpoints of a provider.
struct Server {
    authorization: String,
    token: TokenEndpoint,
    names_itself: bool,
}

/// The parameters of an authorization request that are not in the settings.
pub(super) struct Ask<'a> {
    pub(super) redirect_uri: &'a str,
    pub(super) state: &'a str,
    pub(super) code_challenge: &'a str,
    pub(super) nonce: &'a str,
}

/// A code, and the authorization request that it answers.
pub(super) struct Answered<'a> {
    pub(super) code: &'a str,
    pub(super) code_verifier: &'a str,
    pub(super) redirect_uri: &'a str,
}

impl OAuthProvider {
    /// Starts a client of the provider with these settings. A clone of `client` makes each request.
    ///
    /// # Security
    ///
    /// The client must not follow redirects, because the target of a redirect would get the secret and the tokens.
    pub fn builder<S, ResBody>(
        settings: ProviderSettings,
        client_auth: ClientAuth,
        client: S,
    ) -> OAuthProviderBuilder
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        OAuthProviderBuilder {
            settings,
            client_auth,
            client: HttpClient::new(client),
            client_is_registered: false,
            insecure: false,
            clock: DefaultClock::get(),
        }
    }

    /// Starts a [`Provider`] of this name, whose tokens are refreshed here, and whose accounts
    /// [`AccountLinking`](crate::AccountLinking) links.
    pub fn provider(&self, name: impl Into<String>) -> ProviderBuilder {
        Provider::builder(name, self.clone()).linked_by(self.clone())
    }

    /// The URL that the user's browser is sent to.
    pub(super) async fn authorization_url(&self, ask: &Ask<'_>) -> Result<String, AuthError> {
        let server = self.server().await?;
        let settings = &self.inner.settings;
        let mut query = Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", self.client_id())
            .append_pair("redirect_uri", ask.redirect_uri)
            .append_pair("state", ask.state)
            .append_pair("code_challenge", ask.code_challenge)
            .append_pair("code_challenge_method", "S256");
        if !settings.scopes.is_empty() {
            query.append_pair(settings.scope_parameter, &settings.scope());
        }
        if settings.wants_id_token() {
            query.append_pair("nonce", ask.nonce);
        }
        if let Some(resource) = &settings.resource {
            query.append_pair("resource", resource);
        }
        query.extend_pairs(&settings.parameters);
        let separator = if server.authorization.contains('?') {
            '&'
        } else {
            '?'
        };
        Ok(format!(
            "{}{separator}{}",
            server.authorization,
            query.finish()
        ))
    }

    /// Whether an authorization response may be this provider's, by its `iss` (RFC 9207 §2.4).
    pub(super) async fn is_response_of(&self, issuer: Option<&str>) -> Result<bool, AuthError> {
        let server = self.server().await?;
        let known = self.inner.settings.issuer.as_deref();
        Ok(match (issuer, known) {
            (None, _) => !server.names_itself,
            (Some(issuer), Some(known)) if known.contains('{') => {
                // A tenant's identifier stands for the placeholder.
                known
                    .split_once('{')
                    .is_some_and(|(before, _)| issuer.starts_with(before))
            }
            (Some(issuer), Some(known)) => issuer == known,
            // It is not known who the provider says it is.
            (Some(_), None) => true,
        })
    }

    /// Exchanges a code for the user's tokens.
    pub(super) async fn exchange(
        &self,
        answered: &Answered<'_>,
        now: SystemTime,
    ) -> Result<ProviderTokens, AuthError> {
        let server = self.server().await?;
        let request = TokenRequest::authorization_code(answered.code)
            .parameter("code_verifier", answered.code_verifier)
            .parameter("redirect_uri", answered.redirect_uri);
        let response = server
            .token
            .request_token(self.for_resource(request))
            .await?;
        Ok(tokens_of(&response, now, None))
    }

    pub(super) fn client_id(&self) -> &str {
        self.inner.client_auth.client_id()
    }

    pub(super) fn client_auth(&self) -> &ClientAuth {
        &self.inner.client_auth
    }

    pub(super) fn wants_id_token(&self) -> bool {
        self.inner.settings.wants_id_token()
    }

    /// Validates the provider's ID tokens for this client. `None` where the provider's issuer is not known.
    pub(super) fn id_tokens(&self) -> Option<&TokenValidator> {
        self.inner.id_tokens.as_ref()
    }

    fn for_resource(&self, request: TokenRequest) -> TokenRequest {
        match &self.inner.settings.resource {
            Some(resource) => request.resource(resource),
            None => request,
        }
    }

    async fn server(&self) -> Result<Arc<Server>, AuthError> {
        match &self.inner.endpoints {
            Endpoints::Known(server) => Ok(Arc::clone(server)),
            Endpoints::Discovered(discovered) => {
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

impl Refresher for OAuthProvider {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
        let request = self.for_resource(TokenRequest::refresh_token(refresh_token));
        let provider = self.clone();
        Box::pin(async move {
            let server = provider.server().await?;
            refresh_at(&server.token, request, now).await
        })
    }
}

impl Source {
    async fn read(&self) -> Result<Server, AuthError> {
        let read = self.discovery.read().await?;
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
        let token = TokenEndpoint::of_client(read.token_endpoint, self.client.clone());
        let token = endpoint(
            token,
            &self.settings,
            &self.client_auth,
            self.insecure,
            &self.clock,
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

fn endpoint(
    builder: crate::oauth::token_endpoint::TokenEndpointBuilder,
    settings: &ProviderSettings,
    client_auth: &ClientAuth,
    insecure: bool,
    clock: &Arc<dyn Clock>,
) -> Result<TokenEndpoint, BuildError> {
    let builder = builder
        .client_auth(client_auth.clone())
        .dialect(settings.dialect)
        .clock(Arc::clone(clock));
    let builder = if insecure {
        builder.insecure()
    } else {
        builder
    };
    builder.build()
}

/// Builds an [`OAuthProvider`].
///
/// Needs the feature `linking`.
#[must_use = "nothing is checked before `build`"]
pub struct OAuthProviderBuilder {
    settings: ProviderSettings,
    client_auth: ClientAuth,
    client: HttpClient,
    client_is_registered: bool,
    insecure: bool,
    clock: Arc<dyn Clock>,
}

impl OAuthProviderBuilder {
    /// Says that a client's ID which is a URL was registered at the provider.
    ///
    /// By default it is the URL of a [document](crate::upstream::linking::ClientMetadata), and an error of kind
    /// [`Configuration`](AuthErrorKind::Configuration) says so where the metadata of a provider does not have
    /// `client_id_metadata_document_supported`. A provider with known endpoints has no metadata, so nothing is checked.
    pub fn client_is_registered(mut self) -> Self {
        self.client_is_registered = true;
        self
    }

    /// Lets the provider's URLs be plain `http` on any host.
    ///
    /// # Security
    ///
    /// Everybody who can read the network can then read the secrets and the tokens. Use it only in a trusted network.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the client. It asks the provider for nothing before the first link or refresh.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `authorization_url`, `token_url` or `issuer` is not an absolute `https` URL (or `http` on loopback).
    /// - `scopes` has a scope that is not one word, or `resource` is not an absolute URI without a fragment.
    /// - `parameter` has the name of a parameter that the flow sets itself, or an empty value.
    /// - `client_auth.client_id` is blank, or the client's secret cannot be used.
    pub fn build(self) -> Result<OAuthProvider, BuildError> {
        let mut faults = Faults::new("OAuthProvider");
        self.settings.check(self.insecure, &mut faults);
        self.client_auth.check(&mut faults);
        let id_tokens = self.id_tokens(&mut faults);
        let endpoints = self.endpoints(&mut faults);
        let endpoints = faults.or(endpoints)?;
        Ok(OAuthProvider {
            inner: Arc::new(Inner {
                settings: self.settings,
                client_auth: self.client_auth,
                endpoints,
                id_tokens,
            }),
        })
    }

    fn id_tokens(&self, faults: &mut Faults) -> Option<TokenValidator> {
        let issuer = self.settings.issuer.as_deref()?;
        let issuer = Issuer::of_client(issuer, self.client.clone());
        let builder = TokenValidatorBuilder::for_id_tokens(issuer, self.client_auth.client_id())
            .realm("ID token")
            .clock(Arc::clone(&self.clock));
        let builder = if self.insecure {
            builder.insecure()
        } else {
            builder
        };
        builder
            .build()
            .map_err(|error| {
                for invalid in error.invalid_settings() {
                    // The audience is the client's id, which has its own fault.
                    if invalid.setting() == "issuer" {
                        faults.add("issuer", invalid.message().to_owned());
                    }
                }
            })
            .ok()
    }

    fn endpoints(&self, faults: &mut Faults) -> Option<Endpoints> {
        match &self.settings.place {
            Place::Known {
                authorization,
                token,
            } => {
                let builder = TokenEndpoint::of_client(&**token, self.client.clone());
                let token = endpoint(
                    builder,
                    &self.settings,
                    &self.client_auth,
                    self.insecure,
                    &self.clock,
                );
                // Each of its faults has been found already.
                let server = Server {
                    authorization: authorization.to_string(),
                    token: token.ok()?,
                    names_itself: false,
                };
                Some(Endpoints::Known(Arc::new(server)))
            }
            Place::Discovered => {
                let issuer = self.settings.issuer.as_deref().unwrap_or_default();
                let discovery = ServerDiscovery::new(issuer, self.insecure, self.client.clone());
                let discovery = match discovery {
                    Ok(discovery) => discovery,
                    // The validator of ID tokens has named it.
                    Err(_) if self.settings.issuer.is_some() => return None,
                    Err(fault) => {
                        faults.add("issuer", fault);
                        return None;
                    }
                };
                Some(Endpoints::Discovered(Discovered {
                    source: Arc::new(Source {
                        discovery,
                        settings: self.settings.clone(),
                        client_auth: self.client_auth.clone(),
                        client: self.client.clone(),
                        client_is_registered: self.client_is_registered,
                        insecure: self.insecure,
                        clock: Arc::clone(&self.clock),
                    }),
                    cache: CredentialCache::builder()
                        .capacity(16)
                        .clock(Arc::clone(&self.clock))
                        .make(),
                    key: CacheScope::new("provider metadata").key_for_client(),
                }))
            }
        }
    }
}

impl fmt::Debug for OAuthProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthProvider")
            .field("settings", &self.inner.settings)
            .field("client_auth", &self.inner.client_auth)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OAuthProviderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthProviderBuilder")
            .field("settings", &self.settings)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}
