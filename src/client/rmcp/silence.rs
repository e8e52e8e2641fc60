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
    time::{Instant, Sleep, sleep_until},
};
use tower::BoxError;

use super::TowerHttpError;

/// How long a request waits: for the next byte, and for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    silence: Duration,
    in_all: Duration,
    /// `None` if there is no limit.
    ends_at: Option<Instant>,
}

impl Patience {
    pub(super) fn begin(silence: Duration, in_all: Duration) -> Self {
        Self {
            silence,
            in_all,
            ends_at: Instant::now().checked_add(in_all),
        }
    }

    /// For a request whose answer comes when the client no longer wants what it asked for.
    pub(super) fn without_end(mut self) -> Self {
        self.ends_at = None;
        self
    }

    /// When the next byte must be there.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let silence_ends = Instant::now().checked_add(self.silence);
        silence_ends.into_iter().chain(self.ends_at).min()
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| Instant::now() >= end)
    }

    fn error(&self) -> TowerHttpError {
        let after = match self.is_over() {
            true => self.in_all,
            false => self.silence,
        };
        TowerHttpError::NoAnswer { after }
    }

    /// Fails with [`TowerHttpError::NoAnswer`] when the patience ends.
    pub(super) async fn within<F: Future>(self, future: F) -> Result<F::Output, TowerHttpError> {
        let mut future = pin!(future);
        let mut silence = pin!(None);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_end(silence.as_mut(), cx).map(Err),
        })
        .await
    }

    /// Starts to measure the silence if that has not begun.
    fn poll_end(
        self,
        mut silence: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<TowerHttpError> {
        // Outside of a runtime there is no timer, and nobody who waits for an answer.
        if silence.is_none()
            && Handle::try_current().is_ok()
            && let Some(end) = self.next_end()
        {
            silence.set(Some(sleep_until(end)));
        }
        match silence.as_pin_mut() {
            Some(silence) => silence.poll(cx).map(|()| self.error()),
            None => Poll::Pending,
        }
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
    /// A body that fails when the patience ends.
    pub(super) struct Impatient<B> {
        #[pin]
        body: B,
        patience: Option<Patience>,
        #[pin]
        silence: Option<Sleep>,
    }
}

impl<B> Impatient<B> {
    pub(super) fn new(body: B, patience: Option<Patience>) -> Self {
        Self {
            body,
            patience,
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
                if let Some(patience) = this.patience.filter(Patience::is_over) {
                    return Poll::Ready(Some(Err(patience.error())));
                }
                if frame.data_ref().is_some_and(Buf::has_remaining) {
                    this.silence.set(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(TowerHttpError::Body(error.into()))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match *this.patience {
                Some(patience) => patience
                    .poll_end(this.silence, cx)
                    .map(|error| Some(Err(error))),
                None => Poll::Pending,
            },
        }
    }
}
