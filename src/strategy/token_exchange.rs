use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::{
        request::{TokenRequest, TokenType},
        token_endpoint::TokenEndpoint,
    },
    outgoing::identity::HealthCheck,
};

use super::{
    authenticating::Authenticating,
    client_credentials::ClientCredentials,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    placement::Placement,
    rejection::Rejection,
    strategy::Strategy,
    subject::{Actor, Subject},
};

/// Exchanges the user's token for a token issued for the backend, and sends the issued token (RFC 8693).
///
/// Needs the feature `token-exchange`.
///
/// The issuer is asked once per user and token lifetime, as [`CredentialCache`] describes. The strategy replaces an
/// existing `Authorization` header. Clones are cheap and share their state.
///
/// ```no_run
/// # fn strategy(
/// #     endpoint: tower_identity::TokenEndpoint,
/// # ) -> Result<(), tower_identity::BuildError> {
/// use tower_identity::{Subject, TokenExchange};
///
/// let strategy = TokenExchange::builder(endpoint)
///     .audience("mcp-backend")
///     .resource("https://mcp.example.com")
///     .scopes(["tools:read"])
///     .subject(Subject::upstream("github")) // default: the identity's own token
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Health checks
///
/// A [`HealthCheck`] has no user. If the endpoint's client has a secret or a key, the health check gets a token issued
/// to that client, for the same audience, resource and scopes (RFC 6749 §4.4). Otherwise it passes without a
/// credential.
///
/// # While a token is obtained
///
/// The call waits and holds the readiness of the inner service (see [readiness](crate::AuthLayer#readiness-is-held)).
/// The exchange runs in a separate task, which continues if the call is cancelled. The token client must also be
/// separate from the inner service.
///
/// # Errors
///
/// - [`MissingIdentity`](crate::AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](crate::AuthErrorKind::MissingToken): the identity lacks the token to exchange.
/// - [`Expired`](crate::AuthErrorKind::Expired): that token is known to have expired. The issuer is not asked, and no
///   cached token that was exchanged for it is sent.
/// - Any other kind that a [refusal of the token endpoint](TokenEndpoint#refusals) maps to.
#[derive(Clone)]
pub struct TokenExchange {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: IssuedTokens,
    subject_type: TokenType,
    actor_type: Option<TokenType>,
    probes: Option<ClientCredentials>,
}

impl TokenExchange {
    /// Creates a builder for a strategy that exchanges tokens at `endpoint`.
    pub fn builder(endpoint: TokenEndpoint) -> TokenExchangeBuilder {
        TokenExchangeBuilder::new(Ok(endpoint))
    }
}

impl<B: Send + 'static> Strategy<B> for TokenExchange {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let Inner {
            tokens,
            subject_type,
            actor_type,
            probes,
        } = &*self.inner;
        if let Some(probes) = probes
            && request.extensions().get::<HealthCheck>().is_some()
        {
            return probes.authenticate(request);
        }
        tokens.authenticate(request, |party| {
            let mut exchange = tokens.request_for(party);
            if let Some(subject) = &party.subject {
                exchange = exchange.subject_token(subject.expose(), subject_type.clone());
            }
            if let (Some(actor), Some(actor_type)) = (&party.actor, actor_type) {
                exchange = exchange.actor_token(actor.expose(), actor_type.clone());
            }
            tokens.endpoint.request_token(exchange)
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        match &self.inner.probes {
            Some(probes) if sent.extensions.get::<HealthCheck>().is_some() => {
                Strategy::<B>::rejected(probes, sent, response)
            }
            _ => self.inner.tokens.rejected(sent, response),
        }
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        self.inner.tokens.held_scopes(sent)
    }

    fn name(&self) -> &'static str {
        "token_exchange"
    }
}

impl fmt::Debug for TokenExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchange")
            .field("endpoint", &self.inner.tokens.endpoint)
            .field("request", &self.inner.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds a [`TokenExchange`].
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct TokenExchangeBuilder {
    endpoint: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    requested_token_type: Option<TokenType>,
    subject: Subject,
    actor: Option<Actor>,
}

impl TokenExchangeBuilder {
    /// Creates the builder. An endpoint that could not be built is reported by `build`.
    pub(crate) fn new(endpoint: Result<TokenEndpoint, BuildError>) -> Self {
        Self {
            endpoint,
            tokens: IssuedTokensBuilder::new(),
            requested_token_type: Some(TokenType::AccessToken),
            subject: Subject::own_token(),
            actor: None,
        }
    }

    /// Adds an audience: the name of a service that the token is for (RFC 8693 §2.1).
    pub fn audience(mut self, audience: &str) -> Self {
        self.tokens.target.audience(audience);
        self
    }

    /// Adds a resource: the address of a service that the token is for (RFC 8707 §2). It is an absolute URI without a
    /// fragment.
    pub fn resource(mut self, resource: &str) -> Self {
        self.tokens.target.resource(resource);
        self
    }

    /// Sets the scopes of the token (RFC 6749 §3.3). By default no scope is sent, and the issuer decides.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.target.scopes(scopes);
        self
    }

    /// Sets the requested type of token (RFC 8693 §2.1): an access token, a JWT, or a type of the issuer's own by its URI.
    /// The default is an access token.
    ///
    /// Some issuers require the parameter, for example Google. For an issuer that does not allow it, `None` leaves it
    /// out:
    ///
    /// ```
    /// # fn strategy(
    /// #     endpoint: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::TokenExchange;
    ///
    /// let strategy = TokenExchange::builder(endpoint)
    ///     .requested_token_type(None)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn requested_token_type(mut self, token_type: impl Into<Option<TokenType>>) -> Self {
        self.requested_token_type = token_type.into();
        self
    }

    /// Sets which of the user's tokens is exchanged. The default is the identity's own token.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets the party that acts for the user (delegation, RFC 8693 §1.1). By default there is none.
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.tokens.placement = placement;
        self
    }

    /// Sets the cache for the tokens, which several strategies can share. By default the strategy has its own cache.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock of the strategy's own cache. A cache set with [`cache`](Self::cache) keeps its own clock. The
    /// default is the [default clock](crate::DefaultClock) of the thread.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.tokens.clock = clock;
        self
    }

    /// Builds the strategy.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `audience` is blank.
    /// - `resource` is not an absolute URI, or has a fragment.
    /// - `scopes` has a scope that is not one word, or was set twice.
    /// - `requested_token_type` cannot be sent as a bearer token, for example an ID token, or is not an absolute URI.
    /// - `subject` or `actor` has a type that is not an absolute URI.
    /// - `subject.provider` or `actor.provider`, the name of an upstream provider, is blank.
    pub fn build(self) -> Result<TokenExchange, BuildError> {
        let mut faults = Faults::new("TokenExchange");
        self.check(&mut faults);
        let endpoint = faults.take_built("endpoint", self.endpoint);
        let endpoint = faults.or(endpoint)?;

        let probes = endpoint
            .has_confidential_client()
            .then(|| ClientCredentials::make(endpoint.clone(), self.tokens.clone(), None));
        let mut request = TokenRequest::token_exchange();
        if let Some(token_type) = self.requested_token_type {
            request = request.requested_token_type(token_type);
        }
        Ok(TokenExchange {
            inner: Arc::new(Inner {
                subject_type: self.subject.token_type().clone(),
                actor_type: self.actor.as_ref().map(|actor| actor.token_type().clone()),
                tokens: self.tokens.make(
                    endpoint,
                    request,
                    Holder::User {
                        subject: self.subject,
                        actor: self.actor,
                    },
                    CacheScope::new("token exchange"),
                ),
                probes,
            }),
        })
    }

    fn check(&self, faults: &mut Faults) {
        self.tokens.target.check(faults);
        match &self.requested_token_type {
            Some(requested) if !requested.can_be_bearer() => faults.add(
                "requested_token_type",
                "cannot be sent as a bearer token, ask for an access token or a JWT",
            ),
            Some(requested) => requested.check("requested_token_type", faults),
            None => {}
        }
        self.subject.check("subject", faults);
        if let Some(actor) = &self.actor {
            actor.check(faults);
        }
    }
}

impl fmt::Debug for TokenExchangeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchangeBuilder")
            .field("endpoint", &self.endpoint)
            .field("subject", &self.subject)
            .field("actor", &self.actor)
            .finish_non_exhaustive()
    }
}
