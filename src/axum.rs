use std::convert::Infallible;

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::request::Parts;

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::{Identity, SentNoToken},
    telemetry::RareWarning,
};

/// Takes the caller's identity as an argument of a handler.
///
/// Needs the feature `axum`.
///
/// The rejection is answered with 401. [`TokenValidatorLayer`](crate::TokenValidatorLayer) around the route completes its
/// challenge, so that the caller learns where to log in. See [`guide::axum`](crate::guide::axum).
///
/// Where no such layer is around the route, the log has the warning "a handler needs an identity": at the first such
/// request, the second, the fourth and so on, so that callers cannot flood it.
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let identity = parts.extensions.get::<Self>();
        identity.cloned().ok_or_else(|| no_identity(parts))
    }
}

/// Takes the caller's identity as an argument `Option<Identity>` of a handler that also answers anonymous callers.
///
/// Needs the feature `axum`.
///
/// Such requests reach the handler with [`allow_anonymous`](crate::TokenValidatorLayer::allow_anonymous), or where no
/// layer validates tokens.
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// Answers with [`to_response`](AuthError::to_response), so that a handler can return the error with `?`.
///
/// Needs the feature `axum`.
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        self.to_response()
    }
}

#[cold]
fn no_identity(parts: &Parts) -> AuthError {
    if parts.extensions.get::<SentNoToken>().is_some() {
        return AuthError::new(
            AuthErrorKind::MissingIdentity,
            "the handler needs an identity, and the caller sent no token",
        );
    }
    let message = "no `TokenValidatorLayer` is around this route; add the layer after the route, because `Router::layer` \
                   covers the routes that were added before";
    static REFUSED: RareWarning = RareWarning::new();
    if let Some(requests) = REFUSED.count() {
        tracing::warn!(
            requests,
            "a handler needs an identity, and its request has none: {message}"
        );
    }
    AuthError::new(AuthErrorKind::MissingIdentity, message)
}
