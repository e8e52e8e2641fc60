use std::{fmt, pin::Pin};

use http::Request;

use crate::{dpop::BoundKey, error::AuthError};

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
    /// The key that the token is bound to.
    key: Option<BoundKey>,
}

/// Stands in the extensions of a request whose token is bound to the key, from its strategy to the layer.
#[derive(Clone)]
pub(crate) struct BoundTo(pub(crate) BoundKey);

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
        State::Done.into()
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
        State::Pending(obtain).into()
    }

    /// Says that the token on the request is bound to this key (DPoP, RFC 9449), or the one that is being obtained.
    ///
    /// Needs the feature `dpop`.
    ///
    /// The strategy sends `Authorization: DPoP …` and no proof, because [`AuthLayer`](crate::AuthLayer) makes one for each
    /// request that it sends. If the request has another `Authorization`, for example with a bearer token, the key is not
    /// used.
    ///
    /// ```
    /// use http::{HeaderValue, Request, header::AUTHORIZATION};
    /// use tower_identity::{Authenticating, Strategy, oauth::DpopKey};
    ///
    /// struct Bound {
    ///     authorization: HeaderValue,
    ///     key: DpopKey,
    /// }
    ///
    /// impl<B> Strategy<B> for Bound {
    ///     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
    ///         let authorization = self.authorization.clone();
    ///         request.headers_mut().insert(AUTHORIZATION, authorization);
    ///         Authenticating::done().bound_to(self.key.clone())
    ///     }
    /// }
    /// ```
    #[cfg(feature = "dpop")]
    pub fn bound_to(self, key: crate::oauth::DpopKey) -> Self {
        self.with_key(Some(key))
    }

    /// Does this if there is a key.
    #[inline]
    pub(crate) fn with_key(self, key: Option<BoundKey>) -> Self {
        Self { key, ..self }
    }

    /// Waits until the credential is on `request`, which must be the one that was passed to `authenticate`.
    ///
    /// If the token is bound to a key, the key is then in the extensions of the request. So a strategy that wraps another
    /// passes it on to the layer.
    ///
    /// # Errors
    ///
    /// Returns the error with which the strategy refused the request. The request is dropped.
    pub async fn complete(self, request: Request<B>) -> Result<Request<B>, AuthError> {
        let mut request = match self.state {
            State::Done => request,
            State::Refused(error) => return Err(error),
            State::Pending(obtain) => obtain(request).await?,
        };
        if let Some(key) = self.key {
            request.extensions_mut().insert(BoundTo(key));
        }
        Ok(request)
    }

    #[inline]
    pub(crate) fn into_parts(self) -> (State<B>, Option<BoundKey>) {
        (self.state, self.key)
    }
}

impl<B> From<AuthError> for Authenticating<B> {
    fn from(error: AuthError) -> Self {
        State::Refused(error).into()
    }
}

impl<B> From<State<B>> for Authenticating<B> {
    #[inline]
    fn from(state: State<B>) -> Self {
        Self { state, key: None }
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
