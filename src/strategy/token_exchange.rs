use std::{fmt, sync::Arc};

use http::Request;

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    error::AuthError,
    oauth::{
        request::{TokenRequest, TokenType},
        token_endpoint::TokenEndpoint,
    },
    outgoing::identity::HealthCheck,
};

use super::{
    attempt::Attempt,
    authenticating::Authenticating,
    client_credentials::{ClientCredentials, ClientCredentialsBuilder},
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    strategy::Strategy,
    subject::{Actor, Subject},
};

/// Exchanges the user's token for one that was minted for the backend, and sends that (RFC 8693).
///
/// The issuer is asked once per user and lifetime, see [`CredentialCache`]. An `Authorization` header that is there
/// already is replaced. A clone is cheap, and is the same strategy.
///
/// ```no_run
/// # fn strategy(endpoint: tower_identity::TokenEndpoint) -> Result<(), tower_identity::AuthError> {
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
/// A [`HealthCheck`] has no user. Where the endpoint has a client with a secret or a key, the probe gets a token of that
/// client's own, for the same audience, resource and scopes (RFC 6749 §4.4). Otherwise it passes without a credential.
///
/// # While a token is obtained
///
/// The call waits, and holds the readiness of the service beneath: see
/// [readiness](crate::AuthLayer#readiness-is-held). The exchange is a task of its own, which goes on when the call is
/// given up. The token client has to be one of its own as well.
///
/// # Errors
///
/// - [`MissingIdentity`](crate::AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](crate::AuthErrorKind::MissingToken): the identity has not the token that is to be exchanged.
/// - [`Expired`](crate::AuthErrorKind::Expired): that token is known to have expired. The issuer was not asked, and
///   nothing that was exchanged for it is used.
/// - What the [token endpoint](crate::oauth#what-comes-of-an-answer) says.
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
    /// Starts a strategy that exchanges tokens at `endpoint`.
    pub fn builder(endpoint: TokenEndpoint) -> TokenExchangeBuilder {
        TokenExchangeBuilder {
            tokens: IssuedTokensBuilder::new(endpoint, TokenRequest::token_exchange()),
            probe: TokenRequest::client_credentials(),
            subject: Subject::own_token(),
            actor: None,
        }
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
            let mut exchange = tokens.request.clone();
            if let Some(subject) = &party.subject {
                exchange = exchange.subject_token(subject.expose(), *subject_type);
            }
            if let (Some(actor), Some(actor_type)) = (&party.actor, actor_type) {
                exchange = exchange.actor_token(actor.expose(), *actor_type);
            }
            tokens.endpoint.request_token(exchange)
        })
    }

    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        match &self.inner.probes {
            Some(probes) if request.extensions().get::<HealthCheck>().is_some() => {
                probes.reject(request, sent)
            }
            _ => self.inner.tokens.reject(request, sent),
        }
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
#[must_use = "nothing is checked before `build`"]
pub struct TokenExchangeBuilder {
    tokens: IssuedTokensBuilder,
    probe: TokenRequest,
    subject: Subject,
    actor: Option<Actor>,
}

impl TokenExchangeBuilder {
    /// Adds the name of a service that the token is for (RFC 8693 §2.1).
    pub fn audience(self, audience: &str) -> Self {
        self.target(|request| request.audience(audience))
    }

    /// Adds the address of a service that the token is for, an absolute URI without a fragment (RFC 8707 §2).
    pub fn resource(self, resource: &str) -> Self {
        self.target(|request| request.resource(resource))
    }

    /// Sets what the token should allow (RFC 6749 §3.3). None at all leaves it to the issuer.
    pub fn scopes<I>(self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let scopes: Vec<_> = scopes.into_iter().collect();
        self.target(|request| request.scopes(scopes.iter().map(AsRef::as_ref)))
    }

    /// Sets what kind of token is wanted: an access token or a JWT. By default it is left to the issuer.
    pub fn requested_token_type(mut self, token_type: TokenType) -> Self {
        self.tokens.request = self.tokens.request.requested_token_type(token_type);
        self
    }

    /// Sets which of the user's tokens is exchanged. By default the identity's own.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets who acts for the user (RFC 8693 §1.1, delegation). By default nobody does.
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Keeps the tokens in this cache, together with those of other strategies. By default there is one of its own.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock of the strategy's own cache; a shared one has its own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.tokens.clock = clock;
        self
    }

    /// Makes the strategy.
    ///
    /// # Errors
    ///
    /// [`Configuration`](crate::AuthErrorKind::Configuration), when an audience is empty, a resource is not absolute or
    /// has a fragment, a scope is not one word, scopes were set twice, the requested token could not be sent as a bearer
    /// token, or the name of an upstream provider is blank.
    pub fn build(self) -> Result<TokenExchange, AuthError> {
        self.tokens.request.check()?;
        self.tokens.request.check_is_for_bearer()?;
        let probes = if self.tokens.endpoint.has_confidential_client() {
            let probes = ClientCredentialsBuilder {
                tokens: IssuedTokensBuilder {
                    request: self.probe,
                    ..self.tokens.clone()
                },
            };
            Some(probes.build()?)
        } else {
            None
        };
        let scope = self.tokens.scope("token exchange");
        Ok(TokenExchange {
            inner: Arc::new(Inner {
                subject_type: self.subject.token_type(),
                actor_type: self.actor.as_ref().map(Actor::token_type),
                tokens: self.tokens.build(
                    scope,
                    Holder::User {
                        subject: self.subject,
                        actor: self.actor,
                    },
                )?,
                probes,
            }),
        })
    }

    /// What the token is for, which is the same for a user and a probe.
    fn target(mut self, set: impl Fn(TokenRequest) -> TokenRequest) -> Self {
        self.tokens.request = set(self.tokens.request);
        self.probe = set(self.probe);
        self
    }
}

impl fmt::Debug for TokenExchangeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchangeBuilder")
            .field("endpoint", &self.tokens.endpoint)
            .field("request", &self.tokens.request)
            .finish_non_exhaustive()
    }
}
