use http::Request;

use super::{authenticating::Authenticating, strategy::Strategy};

/// Adds no credential, for a backend that needs none.
///
/// Requests are still bound to the backend's origin.
///
/// ```
/// use tower_identity::{AuthLayer, Origin, Unauthenticated};
///
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = AuthLayer::new(origin, Unauthenticated);
/// # let _ = layer;
/// # Ok::<(), tower_identity::InvalidOrigin>(())
/// ```
///
/// # Security
///
/// All headers that the caller has set are sent, including `Authorization`. Do not copy that header from the incoming
/// request: it is for your service, not for the backend.
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
