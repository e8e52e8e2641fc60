use std::{fmt, pin::Pin};

use http::Request;

use crate::error::AuthError;

/// Tells whether a request may be sent now, later or not at all: the result of
/// [`Strategy::authenticate`](crate::Strategy::authenticate).
///
/// - [`done`](Self::done): the credential is on the request, which can be sent. This costs no allocation.
/// - refused: `AuthError` converts into it (`error.into()`). The request must not be sent.
/// - [`pending`](Self::pending): the work that obtains the credential. It takes the request and gives it back.
///
/// [`AuthLayer`](crate::AuthLayer) acts on it. If your own code runs a strategy, for example in a test or in a strategy
/// that wraps another, it calls [`complete`](Self::complete).
///
/// ```
/// use http::{HeaderValue, Request};
/// use tower_identity::{Authenticating, Strategy};
///
/// struct Signed;
///
/// impl<B: Send + 'static> Strategy<B> for Signed {
///     fn authenticate(&self, _request: &mut Request<B>) -> Authenticating<B> {
///         Authenticating::pending(async |mut request: Request<B>| {
///             // Ask the signing service here.
///             let signature = HeaderValue::from_static("c2lnbmVk");
///             request.headers_mut().insert("x-signature", signature);
///             Ok(request)
///         })
///     }
/// }
///
/// # futures_util::FutureExt::now_or_never(async {
/// let mut request = Request::new("{}");
/// let request = Signed.authenticate(&mut request).complete(request).await?;
/// assert_eq!(request.headers()["x-signature"], "c2lnbmVk");
/// # Ok::<(), tower_identity::AuthError>(())
/// # }).unwrap().unwrap();
/// ```
#[must_use = "it says whether the request may be sent"]
pub struct Authenticating<B> {
    state: State<B>,
}

pub(crate) enum State<B> {
    Done,
    Refused(AuthError),
    Pending(Continuation<B>),
}

/// Takes the request, and gives it back with its credential.
pub(crate) type Continuation<B> = Box<dyn FnOnce(Request<B>) -> PendingRequest<B> + Send>;

pub(crate) type PendingRequest<B> =
    Pin<Box<dyn Future<Output = Result<Request<B>, AuthError>> + Send>>;

impl<B> Authenticating<B> {
    /// Creates the result for a request that has its credential, or needs none.
    #[inline]
    pub fn done() -> Self {
        Self { state: State::Done }
    }

    /// Creates the result for a credential that takes a while. `obtain` takes the request, and gives it back with its
    /// credential.
    ///
    /// The closure and its future are boxed.
    pub fn pending<F, R>(obtain: F) -> Self
    where
        F: FnOnce(Request<B>) -> R + Send + 'static,
        R: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
    {
        let obtain: Continuation<B> = Box::new(|request| Box::pin(obtain(request)));
        Self {
            state: State::Pending(obtain),
        }
    }

    /// Waits until the credential is on `request`, which must be the one that was passed to `authenticate`.
    ///
    /// # Errors
    ///
    /// Returns the error with which the strategy refused the request. The request is dropped.
    pub async fn complete(self, request: Request<B>) -> Result<Request<B>, AuthError> {
        match self.state {
            State::Done => Ok(request),
            State::Refused(error) => Err(error),
            State::Pending(obtain) => obtain(request).await,
        }
    }

    #[inline]
    pub(crate) fn into_state(self) -> State<B> {
        self.state
    }
}

impl<B> From<AuthError> for Authenticating<B> {
    fn from(error: AuthError) -> Self {
        Self {
            state: State::Refused(error),
        }
    }
}

impl<B> fmt::Debug for Authenticating<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Done => "done",
            State::Refused(_) => "refused",
            State::Pending(_) => "pending",
        };
        write!(f, "Authenticating({state})")
    }
}
