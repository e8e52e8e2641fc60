use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::{request::TokenRequest, token_endpoint::TokenEndpoint},
};

use super::{
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder, need_confidential_client},
    rejection::Rejection,
    strategy::Strategy,
};

/// Sends a token of the application's own, which is the same for all users (RFC 6749 §4.4).
///
/// It does not look at the identity: a request without one gets the token, a health check too. An `Authorization` header
/// that is there already is replaced. A clone is cheap, and is the same strategy.
///
/// ```no_run
/// # fn strategy(endpoint: tower_identity::TokenEndpoint) -> Result<(), tower_identity::BuildError> {
/// use tower_identity::ClientCredentials;
///
/// let strategy = ClientCredentials::builder(endpoint).scopes(["tools:list"]).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// What the [token endpoint's refusal](TokenEndpoint#refusals) means.
#[derive(Clone)]
pub struct ClientCredentials {
    tokens: Arc<IssuedTokens>,
}

impl ClientCredentials {
    /// Starts a strategy that gets its token at `endpoint`, as the client that is configured there.
    pub fn builder(endpoint: TokenEndpoint) -> ClientCredentialsBuilder {
        ClientCredentialsBuilder {
            endpoint,
            tokens: IssuedTokensBuilder::new(),
        }
    }
}

impl<B: Send + 'static> Strategy<B> for ClientCredentials {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let tokens = &self.tokens;
        tokens.authenticate(request, |_| {
            tokens.endpoint.request_token(tokens.request.clone())
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.tokens.rejected(sent, response)
    }

    fn name(&self) -> &'static str {
        "client_credentials"
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("endpoint", &self.tokens.endpoint)
            .field("request", &self.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds [`ClientCredentials`].
#[must_use = "nothing is checked before `build`"]
pub struct ClientCredentialsBuilder {
    pub(super) endpoint: TokenEndpoint,
    pub(super) tokens: IssuedTokensBuilder,
}

impl ClientCredentialsBuilder {
    /// Adds the name of a service that the token is for. RFC 6749 has no such parameter; many issuers do.
    pub fn audience(mut self, audience: &str) -> Self {
        self.tokens.target.audience(audience);
        self
    }

    /// Adds the address of a service that the token is for, an absolute URI without a fragment (RFC 8707 §2).
    pub fn resource(mut self, resource: &str) -> Self {
        self.tokens.target.resource(resource);
        self
    }

    /// Sets the scopes of the token (RFC 6749 §3.3). By default the issuer decides.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.target.scopes(scopes);
        self
    }

    /// Sets a cache to keep the token in, which several strategies can share. By default the strategy has its own.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock of the strategy's own cache. A shared cache has its own clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.tokens.clock = clock;
        self
    }

    /// Makes the strategy.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `endpoint.client_auth` has neither a secret nor a key (RFC 6749 §4.4).
    /// - `audience` is blank.
    /// - `resource` is not an absolute URI, or has a fragment.
    /// - `scopes` has a scope that is not one word, or was set twice.
    pub fn build(self) -> Result<ClientCredentials, BuildError> {
        let mut faults = Faults::new("ClientCredentials");
        self.tokens.target.check(&mut faults);
        need_confidential_client(Some(&self.endpoint), "the grant", &mut faults);
        faults.check()?;
        Ok(self.make())
    }

    /// Makes it of settings that are right.
    pub(super) fn make(self) -> ClientCredentials {
        let tokens = self.tokens.make(
            self.endpoint,
            TokenRequest::client_credentials(),
            Holder::Client,
            CacheScope::new("client credentials"),
        );
        ClientCredentials {
            tokens: Arc::new(tokens),
        }
    }
}

impl fmt::Debug for ClientCredentialsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentialsBuilder")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
