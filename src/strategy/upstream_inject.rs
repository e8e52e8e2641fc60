use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderValue, Request};

use crate::{
    clock::{Clock, DefaultClock},
    dpop::BoundKey,
    error::{AuthError, AuthErrorKind, BuildError, Faults, Interaction},
    identity::Identity,
    outgoing::identity::HealthCheck,
    secret::{AccessToken, InvalidSecret},
};

use super::{authenticating::Authenticating, placement::Placement, strategy::Strategy};

/// Sends the user's access token of one upstream provider, by default as the bearer token (RFC 6750 §2.1).
///
/// ```
/// use tower_identity::{AuthLayer, Origin, UpstreamInject};
///
/// // The name of the provider is that of the identity's upstream tokens.
/// let github = UpstreamInject::new("github")?;
/// let layer = AuthLayer::new(Origin::try_from("https://mcp.example.com")?, github);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The strategy replaces an existing `Authorization` header, or that of its [placement](Self::placement). A
/// [`HealthCheck`] passes unchanged, without a user's credential.
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](AuthErrorKind::MissingToken): the identity has no token of this provider, or one that is bound to a
///   key that is not among the [keys](Self::dpop). The [`Interaction`] is to link an account.
/// - [`Expired`](AuthErrorKind::Expired): the token is known to have expired. A token with an unknown expiry is sent.
/// - [`Configuration`](AuthErrorKind::Configuration): the token is bound to a key (DPoP, RFC 9449), and the strategy has
///   [no keys](Self::dpop), or another [placement](Self::placement). Such a token is not sent as a bearer token.
#[derive(Clone)]
pub struct UpstreamInject {
    provider: Arc<str>,
    clock: Arc<dyn Clock>,
    placement: Placement,
    #[cfg(feature = "dpop")]
    keys: Option<crate::oauth::DpopKeys>,
}

impl UpstreamInject {
    /// Creates a strategy that sends the user's token of the provider with this name.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `provider` is blank.
    pub fn new(provider: impl Into<String>) -> Result<Self, BuildError> {
        let provider = provider.into();
        let mut faults = Faults::new("UpstreamInject");
        faults.need_text("provider", &provider);
        faults.check()?;
        Ok(Self {
            provider: provider.into(),
            clock: DefaultClock::get(),
            placement: Placement::bearer(),
            #[cfg(feature = "dpop")]
            keys: None,
        })
    }

    /// Sends tokens that are bound to one of these keys as `Authorization: DPoP …` (RFC 9449 §7.1), and
    /// [`AuthLayer`](crate::AuthLayer) proves that it has the key. They are the keys of the token endpoint that issued the
    /// tokens. Bearer tokens are sent as without keys.
    ///
    /// Needs the feature `dpop`.
    ///
    /// A token whose key is gone is refused with [`MissingToken`](AuthErrorKind::MissingToken), and the [`Interaction`] is to
    /// link the account again. The value is put together for each request, which costs two allocations.
    ///
    /// ```
    /// use tower_identity::{Secret, UpstreamInject, oauth::DpopKeys};
    ///
    /// # let secret = Secret::new("q3t6w9z$C&F)J@NcRfUjXn2r5u7x!A%D").unwrap();
    /// let keys = DpopKeys::per_user(&secret)?;
    /// let strategy = UpstreamInject::new("example")?.dpop(keys);
    /// # Ok::<(), tower_identity::BuildError>(())
    /// ```
    #[cfg(feature = "dpop")]
    #[must_use]
    pub fn dpop(mut self, keys: impl Into<crate::oauth::DpopKeys>) -> Self {
        self.keys = Some(keys.into());
        self
    }

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`. For an example see
    /// [`Placement`].
    ///
    /// With another prefix than `Bearer `, the value is put together for each request, which costs two allocations.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the clock for checking expiry. The default is the [default clock](crate::DefaultClock) of the thread.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(all(feature = "config", feature = "dpop"))]
    pub(crate) fn has_other_placement(&self) -> bool {
        !self.placement.is_bearer()
    }

    /// Returns the value of `Authorization` for a token that is bound to the key with this thumbprint, and the key.
    #[cfg(feature = "dpop")]
    fn bound(
        &self,
        identity: &Identity,
        token: &AccessToken,
        thumbprint: &str,
    ) -> Result<(HeaderValue, BoundKey), AuthError> {
        let keys = self.keys.as_ref().ok_or_else(|| self.no_keys())?;
        if !self.placement.is_bearer() {
            return Err(self.error(
                AuthErrorKind::Configuration,
                "the user's upstream token is bound to a key (DPoP) and was not sent, because the placement is another \
                 than `Authorization`; leave the placement out",
            ));
        }
        let found = keys.find(identity.issuer(), identity.subject(), thumbprint)?;
        let key = found.ok_or_else(|| self.key_is_gone(identity))?;
        let value = token.header_value(crate::dpop::DPOP_SCHEME);
        let value = value.map_err(|error| self.unsendable(error))?;
        Ok((value, key))
    }

    #[cfg(not(feature = "dpop"))]
    #[cold]
    fn bound(
        &self,
        _: &Identity,
        _: &AccessToken,
        _: &str,
    ) -> Result<(HeaderValue, BoundKey), AuthError> {
        Err(self.no_keys())
    }

    #[cold]
    fn no_keys(&self) -> AuthError {
        self.error(
            AuthErrorKind::Configuration,
            "the user's upstream token is bound to a key (DPoP) and was not sent, because the strategy has no keys; give \
             it those of the token endpoint (`UpstreamInject::dpop`, with the feature `dpop`)",
        )
    }

    #[cfg(feature = "dpop")]
    #[cold]
    fn key_is_gone(&self, identity: &Identity) -> AuthError {
        self.error(
            AuthErrorKind::MissingToken,
            "the user's upstream token is bound to a key (DPoP) that is gone, so it is of no use; have them link their \
             account again, and keep the key or its secret for the next time",
        )
        .with_interaction(Interaction::link_account(
            &*self.provider,
            identity.link_url(&self.provider),
        ))
    }

    #[cold]
    fn unsendable(&self, error: InvalidSecret) -> AuthError {
        self.error(
            AuthErrorKind::Configuration,
            "the user's upstream token cannot be sent in this header",
        )
        .with_source(error)
    }

    #[cold]
    fn error(&self, kind: AuthErrorKind, message: impl Into<Cow<'static, str>>) -> AuthError {
        AuthError::new(kind, message).with_provider(&*self.provider)
    }
}

impl<B> Strategy<B> for UpstreamInject {
    #[inline]
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let identity = request.extensions().get::<Identity>();
        if HealthCheck::is_marked(request.extensions(), identity) {
            return Authenticating::done();
        }
        let Some(identity) = identity else {
            return self
                .error(
                    AuthErrorKind::MissingIdentity,
                    "the request carries no identity, so there is no upstream token to send; put an `Identity` in its \
                     extensions, or let `IdentityLayer` fall back to the session's",
                )
                .into();
        };
        let Some(token) = identity.upstream(&self.provider) else {
            if let Some(error) = identity.unavailable_upstream(&self.provider) {
                return error.clone().into();
            }
            return self
                .error(AuthErrorKind::MissingToken, missing_token(identity))
                .with_interaction(Interaction::link_account(
                    &*self.provider,
                    identity.link_url(&self.provider),
                ))
                .into();
        };
        if token
            .expires_at()
            .is_some_and(|expires_at| expires_at <= self.clock.now())
        {
            return self
                .error(
                    AuthErrorKind::Expired,
                    "the user's upstream token has expired and was not sent; it should have been refreshed when \
                     the request arrived, else have the user log in again",
                )
                .into();
        }
        if let Some(thumbprint) = token.dpop_thumbprint() {
            return match self.bound(identity, token.access_token(), thumbprint) {
                Ok((value, key)) => {
                    self.placement.set(request.headers_mut(), value);
                    Authenticating::done().with_key(Some(key))
                }
                Err(error) => error.into(),
            };
        }
        match self.placement.value(token.access_token()) {
            Ok(value) => {
                self.placement.set(request.headers_mut(), value);
                Authenticating::done()
            }
            Err(error) => self.unsendable(error).into(),
        }
    }

    fn name(&self) -> &'static str {
        "upstream_inject"
    }
}

impl fmt::Debug for UpstreamInject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamInject")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

#[cold]
fn missing_token(identity: &Identity) -> String {
    let providers: Vec<_> = identity.upstreams().map(|(provider, _)| provider).collect();
    if providers.is_empty() {
        return "the user has no upstream token, of this provider or of any other; have them log in there, or check \
                what makes the identity"
            .to_owned();
    }
    format!(
        "the user has no upstream token of this provider, only of these: {providers:?}; have them log in there, or \
         check the provider's name"
    )
}
