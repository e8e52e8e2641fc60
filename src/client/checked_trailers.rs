use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::trailers::Credentials;

pin_project! {
    /// A body that sends no trailer with the name of a credential. HTTP/2 sends trailers whether the request announces them
    /// or not.
    pub(super) struct CheckedTrailers<B> {
        #[pin]
        body: B,
        credentials: Credentials,
    }
}

impl<B> CheckedTrailers<B> {
    pub(super) fn of(request: Request<B>) -> Request<Self> {
        let credentials = Credentials::on(request.headers());
        request.map(|body| Self { body, credentials })
    }
}

impl<B: Body> Body for CheckedTrailers<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        loop {
            let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            let mut trailers = match frame.into_trailers() {
                Ok(trailers) => trailers,
                Err(data) => return Poll::Ready(Some(Ok(data))),
            };
            let names = trailers.keys();
            let refused = names.filter(|name| this.credentials.have(name.as_str().as_bytes()));
            for name in refused.cloned().collect::<Vec<_>>() {
                trailers.remove(name);
            }
            if !trailers.is_empty() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
