use http::Request;

use super::{authenticating::Authenticating, strategy::Strategy};

/// Adds no credential: for a backend that wants none, still bound to its origin.
///
/// # Security
///
/// What the caller put onto the request, an `Authorization` header included, leaves with it. Do not copy that of the
/// incoming request: it is for you, not for the backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unauthenticated;

impl<B> Strategy<B> for Unauthenticated {
    fn authenticate(&self, _request: &mut Request<B>) -> Authenticating<B> {
        Authenticating::done()
    }

    fn name(&self) -> &'static str {
        "unauthenticated"
    }
}
