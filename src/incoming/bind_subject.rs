use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    inner_service_accessors::inner_service_accessors,
    outgoing::identity::HealthCheck,
    sent_or_refused::SentOrRefused,
};

/// Refuses requests of a session that do not come from the user who opened it.
///
/// Needs the feature `incoming`.
///
/// With this layer, knowing the id of a session is not enough to use it. A request passes if its identity has the same
/// subject and issuer as the session's (see [`Identity::is_same_user`]). If the session's identity has no issuer, only
/// that very identity passes. A request that is marked with [`HealthCheck`] and carries no identity passes too.
///
/// Use the layer in front of a session's service, or in an outgoing stack beneath an
/// [`IdentityLayer`](crate::IdentityLayer). MCP has no sessions since its revision 2026-07-28: each request stands for
/// itself, with its own user, so there is nothing to bind. A gateway needs the layer for servers and clients of earlier
/// revisions only.
///
/// ```
/// use http::Request;
/// use tower::{Layer, Service, service_fn};
/// use tower_identity::{AuthError, AuthErrorKind, BindSubject, Identity};
///
/// # futures_util::FutureExt::now_or_never(async {
/// let user = |subject: &str| {
///     let builder = Identity::builder(subject);
///     builder.issuer("https://idp.example.com").build()
/// };
/// let session = service_fn(async |_: Request<()>| Ok::<_, tower::BoxError>(()));
/// let mut session = BindSubject::to(user("alice")?).layer(session);
///
/// let mut request = Request::new(());
/// request.extensions_mut().insert(user("alice")?);
/// session.call(request).await?;
///
/// let mut request = Request::new(());
/// request.extensions_mut().insert(user("mallory")?);
/// let refused = session.call(request).await.unwrap_err();
/// let error = AuthError::find_in(refused.as_ref()).unwrap();
/// assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
/// # Ok::<(), tower::BoxError>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Errors
///
/// The service fails with an [`AuthError`] of one of these kinds:
///
/// | kind | the request |
/// | --- | --- |
/// | [`MissingIdentity`](AuthErrorKind::MissingIdentity) | carries no identity |
/// | [`InsufficientScope`](AuthErrorKind::InsufficientScope) | carries another user's identity. A gateway answers 403, since logging in again would not help. |
#[derive(Clone, Debug)]
pub struct BindSubject {
    session: Identity,
}

impl BindSubject {
    /// Creates a layer for the session that the user of this identity opened.
    pub fn to(session: Identity) -> Self {
        Self { session }
    }
}

impl<S> Layer<S> for BindSubject {
    type Service = BindSubjectService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BindSubjectService {
            inner,
            session: self.session.clone(),
        }
    }
}

/// The service that [`BindSubject`] creates.
///
/// Needs the feature `incoming`.
#[derive(Clone, Debug)]
pub struct BindSubjectService<S> {
    inner: S,
    session: Identity,
}

inner_service_accessors!(BindSubjectService);

impl<S> BindSubjectService<S> {
    fn check<B>(&self, request: &Request<B>) -> Result<(), AuthError> {
        let extensions = request.extensions();
        match extensions.get::<Identity>() {
            Some(identity) if identity.is_same_user(&self.session) => Ok(()),
            Some(_) => Err(AuthError::new(
                AuthErrorKind::InsufficientScope,
                "the request is another user's than the one who opened this session; have them open their own",
            )),
            None if extensions.get::<HealthCheck>().is_some() => Ok(()),
            None => Err(AuthError::new(
                AuthErrorKind::MissingIdentity,
                "the request carries no identity, and this session is bound to one user",
            )),
        }
    }
}

impl<S, B> Service<Request<B>> for BindSubjectService<S>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BindSubjectFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match self.check(&request) {
            Ok(()) => SentOrRefused::sent(self.inner.call(request)),
            Err(error) => {
                // A clone is not ready, so this gives back what `poll_ready` reserved, such as a concurrency permit.
                self.inner = self.inner.clone();
                SentOrRefused::refused(error)
            }
        };
        BindSubjectFuture { state }
    }
}

pin_project! {
    /// The future of [`BindSubjectService`].
    ///
    /// Needs the feature `incoming`.
    ///
    /// [`BindSubject`](crate::BindSubject) has an example.
    #[must_use = "futures do nothing unless polled"]
    pub struct BindSubjectFuture<F> {
        #[pin]
        state: SentOrRefused<F>,
    }
}

impl<F, R, E> Future for BindSubjectFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().state.poll(cx)
    }
}

impl<F> fmt::Debug for BindSubjectFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindSubjectFuture").finish_non_exhaustive()
    }
}
