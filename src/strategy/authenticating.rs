use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;

use crate::error::AuthError;

/// The future of [`Strategy::authenticate`](super::Strategy::authenticate): the request with its credentials.
///
/// Either the answer is [`ready`](Self::ready), and nothing was boxed, or it is [`pending`](Self::pending). A request
/// or an [`AuthError`] converts into a ready one.
#[must_use = "futures do nothing unless polled"]
pub struct Authenticating<B> {
    state: State<B>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[expect(
    clippy::large_enum_variant,
    reason = "a boxed request would be an allocation on the hot path"
)]
enum State<B> {
    Ready(future::Ready<Result<Request<B>, AuthError>>),
    Pending(PendingAuthentication<B>),
}

pub(crate) type PendingAuthentication<B> = BoxFuture<Result<Request<B>, AuthError>>;

impl<B> Authenticating<B> {
    /// The answer is at hand.
    pub fn ready(answer: Result<Request<B>, AuthError>) -> Self {
        Self {
            state: State::Ready(future::ready(answer)),
        }
    }

    /// The answer takes a while. The future is boxed.
    ///
    /// ```
    /// use http::{HeaderValue, Request};
    /// use tower_identity::{Authenticating, Strategy};
    ///
    /// struct Signed;
    ///
    /// impl<B: Send + 'static> Strategy<B> for Signed {
    ///     fn authenticate(&self, mut request: Request<B>) -> Authenticating<B> {
    ///         Authenticating::pending(async move {
    ///             // Ask the signing service here.
    ///             request.headers_mut().insert("x-signature", HeaderValue::from_static("c2lnbmVk"));
    ///             Ok(request)
    ///         })
    ///     }
    /// }
    /// ```
    pub fn pending<F>(future: F) -> Self
    where
        F: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
    {
        Self {
            state: State::Pending(Box::pin(future)),
        }
    }

    pub(crate) fn into_ready(
        self,
    ) -> Result<Result<Request<B>, AuthError>, PendingAuthentication<B>> {
        match self.state {
            State::Ready(answer) => Ok(answer.into_inner()),
            State::Pending(future) => Err(future),
        }
    }
}

impl<B> Future for Authenticating<B> {
    type Output = Result<Request<B>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(answer) => Pin::new(answer).poll(cx),
            State::Pending(answer) => answer.as_mut().poll(cx),
        }
    }
}

impl<B> From<Request<B>> for Authenticating<B> {
    fn from(request: Request<B>) -> Self {
        Self::ready(Ok(request))
    }
}

impl<B> From<AuthError> for Authenticating<B> {
    fn from(error: AuthError) -> Self {
        Self::ready(Err(error))
    }
}

impl<B> fmt::Debug for Authenticating<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Ready(_) => "ready",
            State::Pending(_) => "pending",
        };
        write!(f, "Authenticating({state})")
    }
}
