use std::{fmt, sync::Arc, time::Duration};

use http::Request;

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    error::{AuthError, AuthErrorKind},
    oauth::{request::TokenRequest, token_endpoint::TokenEndpoint},
};

use super::{
    attempt::Attempt,
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    strategy::Strategy,
    subject::Subject,
};

/// Exchanges the user's token for the backend's at Microsoft Entra, with its on-behalf-of flow.
///
/// It is what [`TokenExchange`](super::TokenExchange) is elsewhere: the grant of RFC 7523 §2.1 with the user's access
/// token as the `assertion`, and `requested_token_use=on_behalf_of`. The token has to be one that was issued for this
/// application. A health check passes without a credential. A clone is cheap, and is the same strategy.
///
/// ```no_run
/// # fn strategy(endpoint: tower_identity::TokenEndpoint) -> Result<(), tower_identity::AuthError> {
/// use tower_identity::OnBehalfOf;
///
/// let strategy = OnBehalfOf::builder(endpoint) // https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token
///     .scopes(["https://graph.microsoft.com/.default"])
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`TokenExchange`](super::TokenExchange#errors).
#[derive(Clone)]
pub struct OnBehalfOf {
    tokens: Arc<IssuedTokens>,
}

impl OnBehalfOf {
    /// Starts a strategy that gets its tokens at `endpoint`.
    pub fn builder(endpoint: TokenEndpoint) -> OnBehalfOfBuilder {
        let request = TokenRequest::jwt_bearer().parameter("requested_token_use", "on_behalf_of");
        OnBehalfOfBuilder {
            tokens: IssuedTokensBuilder::new(endpoint, request),
            subject: Subject::own_token(),
        }
    }
}

impl<B: Send + 'static> Strategy<B> for OnBehalfOf {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let tokens = &self.tokens;
        tokens.authenticate(request, |party| {
            let mut exchange = tokens.request.clone();
            if let Some(subject) = &party.subject {
                exchange = exchange.assertion(subject.expose());
            }
            tokens.endpoint.request_token(exchange)
        })
    }

    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        self.tokens.reject(request, sent)
    }

    fn name(&self) -> &'static str {
        "on_behalf_of"
    }
}

impl fmt::Debug for OnBehalfOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnBehalfOf")
            .field("endpoint", &self.tokens.endpoint)
            .field("request", &self.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds [`OnBehalfOf`].
#[must_use = "nothing is checked before `build`"]
pub struct OnBehalfOfBuilder {
    tokens: IssuedTokensBuilder,
    subject: Subject,
}

impl OnBehalfOfBuilder {
    /// Sets what the token should allow, and with it for which API it is. At least one is needed.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.request = self.tokens.request.scopes(scopes);
        self
    }

    /// Sets which of the user's access tokens is exchanged. By default the identity's own.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets how long before its end a token that is kept is given up. By default it is used to its end, and renewed before
    /// as [`CredentialCache`] says.
    pub fn cache_skew(mut self, skew: Duration) -> Self {
        self.tokens.skew = skew;
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
    /// [`Configuration`](AuthErrorKind::Configuration), when the endpoint has no client with a secret or a key, there is
    /// no scope, one is not one word, scopes were set twice, the subject is an ID token, or the name of an upstream
    /// provider is blank.
    pub fn build(self) -> Result<OnBehalfOf, AuthError> {
        self.tokens.request.check()?;
        self.tokens
            .endpoint
            .check_confidential_client("the on-behalf-of flow")?;
        if !self.tokens.request.has_scopes() {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the on-behalf-of flow needs a scope, such as `https://graph.microsoft.com/.default`; there is none",
            ));
        }
        if self.subject.is_id_token() {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the on-behalf-of flow exchanges an access token, and an ID token was chosen",
            ));
        }
        let scope = self.tokens.scope("on behalf of");
        let tokens = self.tokens.build(scope, Holder::user(self.subject))?;
        Ok(OnBehalfOf {
            tokens: Arc::new(tokens),
        })
    }
}

impl fmt::Debug for OnBehalfOfBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnBehalfOfBuilder")
            .field("endpoint", &self.tokens.endpoint)
            .field("request", &self.tokens.request)
            .finish_non_exhaustive()
    }
}
