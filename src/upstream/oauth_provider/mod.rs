mod builder;
mod document_url;
mod server;
mod settings;

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    error::AuthError,
    incoming::validator::TokenValidator,
    oauth::{client_auth::ClientAuth, http_client::HttpClient, request::TokenRequest},
    secret::Secret,
};

use super::{
    ProviderTokens, Refreshed, Refresher, TokenOwner, UpstreamFuture,
    bound_key::{self, Key, Keys},
    provider::{Provider, ProviderBuilder},
    refresher::{refresh_at, tokens_of},
};

pub use builder::OAuthProviderBuilder;
pub(super) use document_url::document_path;
use server::{Endpoints, Server};
pub use settings::ProviderSettings;

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
    keys: Option<Keys>,
    endpoints: Endpoints,
    id_tokens: Option<TokenValidator>,
}

/// The parameters of an authorization request that are not in the settings.
pub(super) struct Ask<'a> {
    pub(super) redirect_uri: &'a str,
    pub(super) state: &'a str,
    pub(super) code_challenge: &'a str,
    pub(super) nonce: &'a str,
    /// The key that the code is bound to.
    pub(super) key: Option<&'a Key>,
}

/// A code, and the authorization request that it answers.
pub(super) struct Answered<'a> {
    pub(super) code: &'a str,
    pub(super) code_verifier: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) key: Option<&'a Key>,
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
        OAuthProviderBuilder::new(settings, client_auth, HttpClient::new(client))
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
        if let Some(key) = ask.key {
            query.append_pair("dpop_jkt", bound_key::thumbprint(key));
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
        let request = self.for_resource(request).bound_to(answered.key);
        let response = server.token.request_token(request).await?;
        Ok(tokens_of(&server.token, &response, answered.key, now, None))
    }

    /// The key that the tokens of a login are bound to, if they are.
    pub(super) fn key(&self, user: Option<&TokenOwner>) -> Result<Option<Key>, AuthError> {
        bound_key::for_login(self.inner.keys.as_ref(), user)
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
        self.inner.endpoints.server().await
    }
}

impl OAuthProvider {
    fn refresh_with(
        &self,
        owner: Option<&TokenOwner>,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let key = bound_key::of_tokens(self.inner.keys.as_ref(), owner, tokens);
        let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
        let request = self.for_resource(TokenRequest::refresh_token(refresh_token));
        let provider = self.clone();
        Box::pin(async move {
            let key = key?;
            let server = provider.server().await?;
            refresh_at(&server.token, request, key, now).await
        })
    }
}

impl Refresher for OAuthProvider {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        self.refresh_with(None, tokens, now)
    }

    fn refresh_for(
        &self,
        owner: &TokenOwner,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        self.refresh_with(Some(owner), tokens, now)
    }

    fn can_use(&self, owner: &TokenOwner, tokens: &ProviderTokens) -> bool {
        bound_key::is_here(self.inner.keys.as_ref(), owner, tokens)
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
