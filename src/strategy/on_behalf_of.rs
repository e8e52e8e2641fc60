use std::{fmt, sync::Arc, time::Duration};

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
    placement::Placement,
    rejection::Rejection,
    strategy::Strategy,
    subject::Subject,
};

/// Exchanges the user's token for a token for the backend, with Microsoft Entra's on-behalf-of flow.
///
/// Needs the feature `token-exchange`.
///
/// Microsoft Entra has this flow in place of [`TokenExchange`](crate::TokenExchange). The strategy uses the grant of
/// RFC 7523 §2.1 with the user's access token as the `assertion`, and `requested_token_use=on_behalf_of`. The user's
/// token must have been issued for this application. A health check passes without a credential. Clones are cheap and
/// share their state.
///
/// ```
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let token_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// use tower_identity::{ClientAuth, OnBehalfOf, Secret, TokenEndpoint};
///
/// let url =
///     "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token";
/// let client_id = "11111111-2222-3333-4444-555555555555";
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// // `token_client` is a Tower HTTP client, for example `https_client()?`.
/// let endpoint = TokenEndpoint::builder(url, token_client)
///     .client_auth(ClientAuth::post(client_id, secret))
///     .build()?;
/// let strategy = OnBehalfOf::builder(endpoint)
///     .scopes(["https://graph.microsoft.com/.default"])
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The same as [`TokenExchange`](crate::TokenExchange#errors).
#[derive(Clone)]
pub struct OnBehalfOf {
    tokens: Arc<IssuedTokens>,
}

impl OnBehalfOf {
    /// Creates a builder for a strategy that gets its tokens at `endpoint`.
    pub fn builder(endpoint: TokenEndpoint) -> OnBehalfOfBuilder {
        OnBehalfOfBuilder::new(Ok(endpoint))
    }
}

impl<B: Send + 'static> Strategy<B> for OnBehalfOf {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let tokens = &self.tokens;
        tokens.authenticate(request, |party| {
            let mut exchange = tokens.request_for(party);
            if let Some(subject) = &party.subject {
                exchange = exchange.assertion(subject.expose());
            }
            tokens.endpoint.request_token(exchange)
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.tokens.rejected(sent, response)
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        let held = self.tokens.held_scopes(sent)?;
        (!held.iter().any(|scope| has_all(scope))).then_some(held)
    }

    fn can_widen_scope(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "on_behalf_of"
    }
}

/// Whether the scope stands for all that the user consented to. Microsoft Entra refuses others beside it.
pub(crate) fn has_all(scope: &str) -> bool {
    scope == ".default" || scope.ends_with("/.default")
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
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct OnBehalfOfBuilder {
    endpoint: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    subject: Subject,
}

impl OnBehalfOfBuilder {
    /// Creates the builder. An endpoint that could not be built is reported by `build`.
    pub(crate) fn new(endpoint: Result<TokenEndpoint, BuildError>) -> Self {
        Self {
            endpoint,
            tokens: IssuedTokensBuilder::new(),
            subject: Subject::own_token(),
        }
    }

    /// Sets the scopes of the token, which also name the API that it is for. At least one is required, for example
    /// `https://graph.microsoft.com/.default`.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.target.scopes(scopes);
        self
    }

    /// Sets which of the user's access tokens is exchanged. The default is the identity's own token.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets how long before its expiry a cached token stops being used. By default it is used until it expires, and
    /// renewed earlier as [`CredentialCache`] describes.
    pub fn cache_skew(mut self, skew: Duration) -> Self {
        self.tokens.skew = skew;
        self
    }

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`, and `Authorization: DPoP …` for a
    /// token that is [bound to a key](crate::AuthLayer#tokens-bound-to-a-key), which has no other.
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
    /// - `endpoint.client_auth` has neither a secret nor a key.
    /// - `scopes` is missing, has a scope that is not one word, or was set twice.
    /// - `subject` is an ID token, or `subject.provider`, the name of an upstream provider, is blank.
    /// - `placement` is another than `Authorization: Bearer`, and the endpoint binds its tokens to a key (`dpop`).
    pub fn build(self) -> Result<OnBehalfOf, BuildError> {
        let mut faults = Faults::new("OnBehalfOf");
        self.check(&mut faults);
        let endpoint = faults.take_built("endpoint", self.endpoint);
        need_confidential_client(endpoint.as_ref(), "the on-behalf-of flow", &mut faults);
        self.tokens.check_placement(endpoint.as_ref(), &mut faults);
        let tokens = self.tokens.make(
            faults.or(endpoint)?,
            TokenRequest::jwt_bearer().parameter("requested_token_use", "on_behalf_of"),
            Holder::user(self.subject),
            CacheScope::new("on behalf of"),
        );
        Ok(OnBehalfOf {
            tokens: Arc::new(tokens),
        })
    }

    fn check(&self, faults: &mut Faults) {
        self.tokens.target.check(faults);
        if self.tokens.target.scopes.as_slice().is_empty() {
            faults.add(
                "scopes",
                "is missing, give at least one, such as `https://graph.microsoft.com/.default`",
            );
        }
        if self.subject.is_id_token() {
            faults.add(
                "subject",
                "is an ID token, and the on-behalf-of flow exchanges an access token",
            );
        }
        self.subject.check("subject", faults);
    }
}

impl fmt::Debug for OnBehalfOfBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnBehalfOfBuilder")
            .field("endpoint", &self.endpoint)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
