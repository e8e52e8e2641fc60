//! [`BindSubject`]: a session serves the user who opened it, and nobody else.

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

/// Refuses the requests of a session whose identity is not that of the user who opened it: another subject, or the same
/// subject of another issuer. Without an issuer, nobody but the session's own identity [is that
/// user](Identity::is_same_user).
///
/// With it, to know the id of a session is not enough to use it. It is for either way: in front of a session's service,
/// or in the outgoing stack beneath [`IdentityLayer`](crate::IdentityLayer). A request that is marked [`HealthCheck`] and
/// has no identity passes.
///
/// # Errors
///
/// Its service fails with an [`AuthError`]: [`MissingIdentity`](AuthErrorKind::MissingIdentity) for a request without an
/// identity, [`InsufficientScope`](AuthErrorKind::InsufficientScope) for another user's (403: to log in again does not
/// help).
#[derive(Clone, Debug)]
pub struct BindSubject {
    session: Identity,
}

impl BindSubject {
    /// A layer for the session that was opened with this identity.
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

/// The service of [`BindSubject`].
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
