use http::Request;

use super::{Authenticating, Strategy};

/// Adds no credential: for a backend that wants none, still bound to its origin.
///
/// What the caller put onto the request, an `Authorization` header included, leaves with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unauthenticated;

impl<B> Strategy<B> for Unauthenticated {
    fn authenticate(&self, request: Request<B>) -> Authenticating<B> {
        request.into()
    }

    fn name(&self) -> &'static str {
        "unauthenticated"
    }
}
