//! A strategy by itself, without a layer.

use http::Request;
use tower_identity::{AuthError, Strategy};

pub(crate) trait Authenticated<B>: Strategy<B> {
    /// Asks at once; the future waits for the answer.
    fn authenticated(
        &self,
        mut request: Request<B>,
    ) -> impl Future<Output = Result<Request<B>, AuthError>> + Send + use<Self, B>
    where
        B: Send,
    {
        self.authenticate(&mut request).complete(request)
    }
}

impl<A: Strategy<B> + ?Sized, B> Authenticated<B> for A {}
