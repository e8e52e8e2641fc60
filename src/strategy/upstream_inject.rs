use std::{borrow::Cow, fmt, sync::Arc};

use http::Request;

use crate::{
    clock::{Clock, DefaultClock},
    error::{AuthError, AuthErrorKind, BuildError, Faults, Interaction},
    identity::Identity,
    outgoing::identity::HealthCheck,
};

use super::{authenticating::Authenticating, placement::Placement, strategy::Strategy};

/// Sends the user's access token of one upstream provider, by default as the bearer token (RFC 6750 §2.1).
///
/// The strategy replaces an existing `Authorization` header, or that of its [placement](Self::placement). A
/// [`HealthCheck`] passes unchanged, without a user's credential.
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](AuthErrorKind::MissingToken): the identity has no token of this provider. The
///   [`Interaction`] is to link an account.
/// - [`Expired`](AuthErrorKind::Expired): the token is known to have expired. A token with an unknown expiry is sent.
#[derive(Clone)]
pub struct UpstreamInject {
    provider: Arc<str>,
    clock: Arc<dyn Clock>,
    placement: Placement,
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
        })
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
        match self.placement.value(token.access_token()) {
            Ok(value) => {
                self.placement.set(request.headers_mut(), value);
                Authenticating::done()
            }
            Err(error) => self
                .error(
                    AuthErrorKind::Configuration,
                    "the user's upstream token cannot be sent in this header",
                )
                .with_source(error)
                .into(),
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
    format!(
        "the user has no upstream token of this provider, only of these: {providers:?}; have them log in there, or \
         check the provider's name"
    )
}
