use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Extensions, HeaderValue, Request, StatusCode, request, response};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    dpop::{BoundKey, DPOP_SCHEME},
    error::{AuthError, AuthErrorKind, Faults},
    identity::Identity,
    oauth::{
        request::TokenRequest,
        response::{Lifetime, TokenResponse},
        token_endpoint::TokenEndpoint,
    },
    outgoing::identity::HealthCheck,
};

use super::{
    authenticating::Authenticating,
    parameters::{FromClaims, Parameters},
    placement::Placement,
    rejection::{Rejection, is_about_proof},
    subject::{Actor, Subject, UserToken},
    target::Target,
    token_keys::{are_bound, beside_token, describe_user, key_for},
    wider_scope::WiderScope,
};

/// A token that was issued to a strategy: the type of value in its [`CredentialCache`].
///
/// Needs the feature `token-exchange`.
///
/// One cache can serve several strategies:
///
/// ```
/// use tower_identity::{CredentialCache, strategy::IssuedToken};
///
/// let cache = CredentialCache::<IssuedToken>::builder().capacity(1_000).build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
#[derive(Clone)]
pub struct IssuedToken {
    /// The value of the header that its strategy sends.
    value: HeaderValue,
    /// Its scopes, if the issuer named them and no configuration does.
    scope: Option<Arc<str>>,
    /// The key that it is bound to, if it is.
    key: Option<BoundKey>,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedToken([redacted])")
    }
}

/// Gets tokens from an endpoint, caches them and puts them onto requests, for all strategies that use issued tokens.
pub(super) struct IssuedTokens {
    pub(super) endpoint: TokenEndpoint,
    /// The endpoint that issues the tokens themselves, to whose key or certificate they may be bound.
    pub(super) issuer: TokenEndpoint,
    /// The request without the user's tokens.
    pub(super) request: TokenRequest,
    holder: Holder,
    scope: CacheScope,
    cache: CredentialCache<IssuedToken>,
    skew: Duration,
    placement: Placement,
    /// The scopes that each token has at least, by the configuration. If there are none, those that the issuer names.
    scopes: Vec<String>,
}

/// The party that the tokens are issued for.
#[derive(Clone)]
pub(super) enum Holder {
    Client,
    User {
        subject: Subject,
        actor: Option<Actor>,
        parameters: Parameters,
    },
}

/// The user's tokens to send with a token request. It has none if the token is for the client.
pub(super) struct Party<'a> {
    /// The user, if the token is for one.
    pub(super) user: Option<&'a Identity>,
    pub(super) subject: Option<UserToken<'a>>,
    pub(super) actor: Option<UserToken<'a>>,
    /// The values that the user's claims give for parameters.
    pub(super) from_claims: Option<Box<FromClaims>>,
    /// The scopes that a backend asked for, and those that the token had before.
    pub(super) wider: Option<&'a WiderScope>,
    /// The key that the token shall be bound to.
    pub(super) bound_to: Option<BoundKey>,
}

impl IssuedTokens {
    /// Says that the endpoint is not the one that issues the tokens themselves.
    pub(super) fn issued_by(mut self, issuer: TokenEndpoint) -> Self {
        self.issuer = issuer;
        self
    }

    /// Puts a token onto the request: the cached token, or one that `ask` obtains.
    pub(super) fn authenticate<B, R>(
        &self,
        request: &mut Request<B>,
        ask: impl FnOnce(&Party<'_>) -> R,
    ) -> Authenticating<B>
    where
        B: Send + 'static,
        R: Future<Output = Result<TokenResponse, AuthError>> + Send + 'static,
    {
        let party = match self.holder.find(request.extensions()) {
            Ok(Some(party)) => party,
            Ok(None) => return Authenticating::done(),
            Err(error) => return self.holder.name_provider(error).into(),
        };
        let key = self.key(&party);
        match self.cache.lookup(&key, party.expires_at()) {
            Ok(Some(IssuedToken { value, key, .. })) => {
                let was_sent_before = self.placement.put_on(request.headers_mut(), value);
                if !was_sent_before {
                    return Authenticating::done().with_key(key);
                }
            }
            Ok(None) => {}
            Err(error) => return self.holder.name_provider(error).into(),
        }
        self.obtain(request, ask)
    }

    /// Obtains a token other than the one that is on the request, if a backend rejected that one.
    #[cold]
    fn obtain<B, R>(
        &self,
        request: &Request<B>,
        ask: impl FnOnce(&Party<'_>) -> R,
    ) -> Authenticating<B>
    where
        B: Send + 'static,
        R: Future<Output = Result<TokenResponse, AuthError>> + Send + 'static,
    {
        let party = match self.holder.find(request.extensions()) {
            Ok(Some(party)) => party,
            Ok(None) => return Authenticating::done(),
            Err(error) => return self.holder.name_provider(error).into(),
        };
        let key = match key_for(&self.issuer, party.user) {
            Ok(key) => key,
            Err(error) => return error.into(),
        };
        let party = Party {
            bound_to: key.clone(),
            ..party
        };
        let obtaining = self.cache.replace(
            self.key(&party),
            party.decoded_expires_at(),
            |token| self.placement.is_on(request.headers(), &token.value),
            || {
                let answer = ask(&party);
                let kept = Kept {
                    skew: self.skew,
                    placement: self.placement.clone(),
                    keeps_scope: self.scopes.is_empty(),
                    key: party.bound_to.clone(),
                };
                async move { kept.obtained(answer.await?) }
            },
        );
        let (holder, placement) = (self.holder.clone(), self.placement.clone());
        Authenticating::pending(|mut request: Request<B>| async move {
            match obtaining.await {
                Ok(token) => {
                    placement.set(request.headers_mut(), token.value);
                    Ok(request)
                }
                Err(error) => Err(holder.name_provider(error)),
            }
        })
        .with_key(key)
    }

    /// Has the token that was rejected refreshed, unless it has been replaced since.
    pub(super) fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        if response.status != StatusCode::UNAUTHORIZED || is_about_proof(sent, response) {
            return Rejection::of(response);
        }
        let party = match self.holder.find(&sent.extensions) {
            Ok(Some(party)) => party,
            Ok(None) => return Rejection::of(response),
            Err(_) => return Rejection::NothingHelps,
        };
        let is_rejected = |token: &IssuedToken| self.placement.is_on(&sent.headers, &token.value);
        match self.cache.reject(&self.key(&party), is_rejected) {
            true => Rejection::AnotherCredential,
            false => Rejection::NothingHelps,
        }
    }

    /// The request without the user's tokens, with the scopes that the backend asked for, and with the parameters.
    pub(super) fn request_for(&self, party: &Party<'_>) -> TokenRequest {
        let request = with_scopes(self.request.clone(), party.wider);
        let request = request.bound_to(party.bound_to.as_ref());
        match &self.holder {
            Holder::User { parameters, .. } => {
                parameters.add_to(request, party.from_claims.as_deref())
            }
            Holder::Client => request,
        }
    }

    /// The scopes of the token that was sent: those of the configuration, or else those that the issuer named.
    pub(super) fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        if !self.scopes.is_empty() {
            return Some(self.scopes.clone());
        }
        let party = self.holder.find(&sent.extensions).ok()??;
        let scope = self.cache.peek(&self.key(&party))?.scope?;
        Some(scope.split_ascii_whitespace().map(str::to_owned).collect())
    }

    fn key(&self, party: &Party<'_>) -> CacheKey {
        let scopes = party.wider.map_or(&[][..], WiderScope::scopes);
        let scope = self.issuer.describe_certificate(self.scope);
        let scope = scopes
            .iter()
            .fold(scope, |scope, more| scope.field("wider scope", more));
        let scope = describe_user(&self.issuer, scope, party.user);
        match &party.from_claims {
            Some(values) => party.key(values.describe(scope)),
            None => party.key(scope),
        }
    }
}

impl Holder {
    pub(super) fn user(subject: Subject) -> Self {
        Self::User {
            subject,
            actor: None,
            parameters: Parameters::default(),
        }
    }

    fn describe(&self, scope: CacheScope) -> CacheScope {
        match self {
            Self::Client => scope,
            Self::User {
                subject,
                actor,
                parameters,
            } => {
                let scope = subject.describe(parameters.describe(scope), "subject");
                actor.as_ref().map_or(scope, |actor| actor.describe(scope))
            }
        }
    }

    /// Finds the tokens to send. A health check has none if they are a user's.
    #[inline]
    fn find<'a>(&self, extensions: &'a Extensions) -> Result<Option<Party<'a>>, AuthError> {
        let Self::User {
            subject,
            actor,
            parameters,
        } = self
        else {
            return Ok(Some(Party {
                user: None,
                subject: None,
                actor: None,
                from_claims: None,
                wider: extensions.get::<WiderScope>(),
                bound_to: None,
            }));
        };
        let identity = extensions.get::<Identity>();
        if HealthCheck::is_marked(extensions, identity) {
            return Ok(None);
        }
        let identity = identity.ok_or_else(no_identity)?;
        Ok(Some(Party {
            user: Some(identity),
            subject: Some(subject.find(identity)?),
            actor: match actor {
                Some(actor) => Some(actor.find(identity)?),
                None => None,
            },
            from_claims: parameters.find(identity)?,
            wider: WiderScope::beside(extensions),
            bound_to: None,
        }))
    }

    #[cold]
    fn name_provider(&self, error: AuthError) -> AuthError {
        match self {
            Self::User { subject, .. } => match subject.provider() {
                Some(provider) => error.with_provider(provider),
                None => error,
            },
            Self::Client => error,
        }
    }
}

impl Party<'_> {
    fn key(&self, scope: CacheScope) -> CacheKey {
        match (&self.subject, &self.actor) {
            (Some(subject), Some(actor)) => {
                scope.key_with_actor(subject.fingerprint(), actor.fingerprint())
            }
            (Some(subject), None) => scope.key(subject.fingerprint()),
            (None, _) => scope.key_for_client(),
        }
    }

    fn expires_at(&self) -> Option<SystemTime> {
        self.first_end(|token| token.expires_at)
    }

    /// Returns the earliest expiry, as [`expires_at`](Self::expires_at) does, but includes the `exp` claim of an ID
    /// token. A cached token has that limit already, so only a new token needs this.
    fn decoded_expires_at(&self) -> Option<SystemTime> {
        self.first_end(|token| token.decoded_expires_at())
    }

    fn first_end(&self, end: impl Fn(&UserToken<'_>) -> Option<SystemTime>) -> Option<SystemTime> {
        let tokens = [&self.subject, &self.actor].into_iter().flatten();
        tokens.filter_map(end).min()
    }
}

/// The settings that the builders of these strategies share.
#[derive(Clone)]
pub(super) struct IssuedTokensBuilder {
    pub(super) target: Target,
    /// The shared cache. Without one, the strategy gets its own.
    pub(super) cache: Option<CredentialCache<IssuedToken>>,
    pub(super) clock: Arc<dyn Clock>,
    /// How long before its expiry a cached token stops being used.
    pub(super) skew: Duration,
    pub(super) placement: Placement,
}

impl IssuedTokensBuilder {
    pub(super) fn new() -> Self {
        Self {
            target: Target::default(),
            cache: None,
            clock: DefaultClock::get(),
            skew: Duration::ZERO,
            placement: Placement::bearer(),
        }
    }

    /// Builds the tokens from settings that were checked before. `scope` has the rest of the configuration.
    pub(super) fn make(
        self,
        endpoint: TokenEndpoint,
        request: TokenRequest,
        holder: Holder,
        scope: CacheScope,
    ) -> IssuedTokens {
        let scopes = self.target.scopes.as_slice().to_vec();
        let request = self.target.add_to(request);
        let scope = request.describe(endpoint.describe(scope));
        let scope = match self.skew.is_zero() {
            true => scope,
            false => scope.field("cache skew", self.skew.as_nanos().to_be_bytes()),
        };
        let scope = self.placement.describe(scope);
        let own_cache = || CredentialCache::builder().clock(self.clock).make();
        IssuedTokens {
            issuer: endpoint.clone(),
            endpoint,
            request,
            scope: holder.describe(scope),
            holder,
            cache: self.cache.unwrap_or_else(own_cache),
            skew: self.skew,
            placement: self.placement,
            scopes,
        }
    }

    /// Reports a placement in which a token that is bound to a key cannot be sent (RFC 9449 §7.1).
    pub(super) fn check_placement(&self, issuer: Option<&TokenEndpoint>, faults: &mut Faults) {
        if issuer.is_some_and(are_bound) && !self.placement.is_bearer() {
            faults.add(
                "placement",
                "is another than `Authorization: Bearer`, and the tokens are bound to a key (`dpop`), so they are sent as \
                 `Authorization: DPoP`; leave one of the settings out",
            );
        }
    }
}

/// Reports an endpoint whose client has neither a secret nor a key, for a grant that needs one.
pub(super) fn need_confidential_client(
    endpoint: Option<&TokenEndpoint>,
    grant: &str,
    faults: &mut Faults,
) {
    if endpoint.is_some_and(|endpoint| !endpoint.has_confidential_client()) {
        faults.add(
            "endpoint.client_auth",
            format!("has no secret and no key, and {grant} needs one"),
        );
    }
}

pub(super) fn with_scopes(request: TokenRequest, wider: Option<&WiderScope>) -> TokenRequest {
    match wider {
        Some(wider) => request.with_more_scopes(wider.scopes()),
        None => request,
    }
}

/// How an issued token is kept.
struct Kept {
    skew: Duration,
    placement: Placement,
    keeps_scope: bool,
    key: Option<BoundKey>,
}

impl Kept {
    fn obtained(self, response: TokenResponse) -> Result<Obtained<IssuedToken>, AuthError> {
        let key = self.key.filter(|_| response.is_dpop_bound());
        let token = response.token();
        let value = match key {
            Some(_) => token.header_value(DPOP_SCHEME),
            None => self.placement.value(token),
        };
        let value = value.map_err(|error| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                "the issued token cannot be sent in its header",
            )
            .with_source(error)
        })?;
        let key = key.map(|key| beside_token(key, &value));
        let scope = response.scope().filter(|_| self.keeps_scope);
        let scope = scope.map(Arc::from);
        let token = Obtained::new(IssuedToken { value, scope, key }).cloned_under_lock();
        Ok(match response.lifetime() {
            Lifetime::Unknown => token,
            Lifetime::Spent => token.expires_in(Duration::ZERO),
            Lifetime::For(lifetime) => token.expires_in(lifetime.saturating_sub(self.skew)),
        })
    }
}

#[cold]
pub(super) fn no_identity() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "the request carries no identity, so there is nobody to obtain a token for; put an `Identity` in its \
         extensions, or let `IdentityLayer` fall back to the session's",
    )
}
