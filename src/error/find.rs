use std::{error::Error, io, sync::Arc};

use super::AuthError;

impl AuthError {
    /// Finds the `AuthError` in an error or its sources, for example in a `tower::BoxError` of a layer.
    ///
    /// This function also finds an `AuthError` that the chain of [`Error::source`] skips: inside an [`io::Error`], a
    /// `Box` or an `Arc`, and with the feature `rmcp` inside an error of the MCP SDK.
    ///
    /// ```
    /// use std::io;
    /// use tower_identity::{AuthError, AuthErrorKind};
    ///
    /// let expired = AuthError::new(AuthErrorKind::Expired, "the token has expired");
    /// let error: tower::BoxError = io::Error::other(expired).into();
    /// let found = AuthError::find_in(error.as_ref()).unwrap();
    /// assert_eq!(found.kind(), AuthErrorKind::Expired);
    /// ```
    pub fn find_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a AuthError> {
        std::iter::successors(Some(error), |&error| {
            skipped(error).or_else(|| error.source())
        })
        .find_map(|error| error.downcast_ref())
    }
}

/// The error inside of `error` that `source` skips.
fn skipped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|error| error as _);
    }
    if let Some(error) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(error.as_ref());
    }
    if let Some(error) = shared::<AuthError>(error) {
        return Some(error);
    }
    if let Some(error) = shared::<io::Error>(error) {
        return Some(error);
    }
    #[cfg(feature = "rmcp")]
    if let Some(error) = of_mcp_sdk::skipped(error) {
        return Some(error);
    }
    None
}

fn shared<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let in_arc = error.downcast_ref::<Arc<E>>().map(AsRef::as_ref);
    in_arc.or_else(|| error.downcast_ref::<Box<E>>().map(AsRef::as_ref))
}

#[cfg(feature = "rmcp")]
mod of_mcp_sdk {
    use std::error::Error;

    use rmcp::{
        ServiceError, service::ClientInitializeError,
        transport::streamable_http_client::StreamableHttpError,
    };

    use crate::error::TowerHttpError;

    pub(super) fn skipped<'a>(
        error: &'a (dyn Error + 'static),
    ) -> Option<&'a (dyn Error + 'static)> {
        if let Some(ServiceError::TransportSend(cause)) = error.downcast_ref() {
            return Some(cause);
        }
        match error.downcast_ref() {
            Some(ClientInitializeError::TransportError { error: cause, .. }) => return Some(cause),
            Some(ClientInitializeError::LegacyFallbackFailed { fallback, .. }) => {
                return Some(fallback.as_ref());
            }
            _ => {}
        }
        if let Some(StreamableHttpError::<TowerHttpError>::Client(cause)) = error.downcast_ref() {
            return Some(cause);
        }
        match error.downcast_ref() {
            Some(TowerHttpError::Send(cause)) => Some(cause.as_ref()),
            _ => None,
        }
    }
}
