use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::{
    runtime::Handle,
    time::{Sleep, sleep},
};
use tower::BoxError;

use super::TowerHttpError;

/// Fails with [`TowerHttpError::NoAnswer`] after `limit`.
pub(super) async fn within<F: Future>(
    limit: Duration,
    future: F,
) -> Result<F::Output, TowerHttpError> {
    let mut future = pin!(future);
    let mut silence = pin!(None);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => poll_end(silence.as_mut(), limit, cx).map(Err),
    })
    .await
}

/// Starts to measure the silence if that has not begun.
fn poll_end(
    mut silence: Pin<&mut Option<Sleep>>,
    limit: Duration,
    cx: &mut Context<'_>,
) -> Poll<TowerHttpError> {
    // Outside of a runtime there is no timer, and nobody who waits for an answer.
    if silence.is_none() && Handle::try_current().is_ok() {
        silence.set(Some(sleep(limit)));
    }
    match silence.as_pin_mut() {
        Some(silence) => silence
            .poll(cx)
            .map(|()| TowerHttpError::NoAnswer { after: limit }),
        None => Poll::Pending,
    }
}

/// The body of a response that never comes.
pub(super) struct Silence;

impl Body for Silence {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

pin_project! {
    /// A body that fails after so long without a byte.
    pub(super) struct Impatient<B> {
        #[pin]
        body: B,
        limit: Option<Duration>,
        #[pin]
        silence: Option<Sleep>,
    }
}

impl<B> Impatient<B> {
    pub(super) fn new(body: B, limit: Option<Duration>) -> Self {
        Self {
            body,
            limit,
            silence: None,
        }
    }
}

impl<B> Body for Impatient<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = TowerHttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, TowerHttpError>>> {
        let mut this = self.project();
        match this.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.data_ref().is_some_and(Buf::has_remaining) {
                    this.silence.set(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(TowerHttpError::Body(error.into()))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match *this.limit {
                Some(limit) => poll_end(this.silence, limit, cx).map(|error| Some(Err(error))),
                None => Poll::Pending,
            },
        }
    }
}
