use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::rmcp::transport::streamable_http_client::SseError;
use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::BoxStream};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use sse_stream::{Sse, SseStream};
use tower::BoxError;

use super::TowerHttpError;

/// The events of `body`, as they arrive. It ends with an error at an event of more than `max_event_size` bytes.
pub(super) fn event_stream<B>(
    body: B,
    max_event_size: usize,
) -> BoxStream<'static, Result<Sse, SseError>>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    SseStream::new(EventLimit {
        body,
        meter: EventMeter::new(max_event_size),
        failed: false,
    })
    .boxed()
}

pin_project! {
    /// A body that fails at an event that is too large, before the parser above keeps its bytes.
    struct EventLimit<B> {
        #[pin]
        body: B,
        meter: EventMeter,
        failed: bool,
    }
}

impl<B> Body for EventLimit<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = TowerHttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TowerHttpError>>> {
        let this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.body.poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                let fits = frame.data_ref().is_none_or(|data| this.meter.fits(data));
                fits.then_some(frame).ok_or(TowerHttpError::EventTooLarge {
                    max_size: this.meter.max_size,
                })
            }
            Some(Err(error)) => Err(TowerHttpError::Body(error.into())),
            None => return Poll::Ready(None),
        };
        *this.failed = frame.is_err();
        Poll::Ready(Some(frame))
    }
}

/// Counts the bytes that a parser keeps of the event at hand: its lines, but not the comments among them.
struct EventMeter {
    max_size: usize,
    kept: usize,
    line: usize,
    is_comment: bool,
    after_carriage_return: bool,
}

impl EventMeter {
    fn new(max_size: usize) -> Self {
        Self {
            max_size,
            kept: 0,
            line: 0,
            is_comment: false,
            after_carriage_return: false,
        }
    }

    fn fits(&mut self, data: &[u8]) -> bool {
        data.split_inclusive(|byte| matches!(byte, b'\r' | b'\n'))
            .all(|piece| self.piece_fits(piece))
    }

    /// A piece is a line, or the part of it that has arrived.
    fn piece_fits(&mut self, piece: &[u8]) -> bool {
        let is_second_half_of_line_end = self.after_carriage_return && piece == b"\n";
        self.after_carriage_return = piece.ends_with(b"\r");
        if is_second_half_of_line_end {
            return true;
        }
        let ends_line = piece.ends_with(b"\n") || piece.ends_with(b"\r");
        if self.line == 0 {
            if ends_line && piece.len() == 1 {
                self.kept = 0;
                return true;
            }
            self.is_comment = piece.starts_with(b":");
        }
        self.line = self.line.saturating_add(piece.len());
        if self.kept.saturating_add(self.line) > self.max_size {
            return false;
        }
        if ends_line {
            if !self.is_comment {
                self.kept = self.kept.saturating_add(self.line);
            }
            self.line = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(max_size: usize, chunks: &[&str]) -> bool {
        let mut meter = EventMeter::new(max_size);
        chunks.iter().all(|chunk| meter.fits(chunk.as_bytes()))
    }

    #[test]
    fn an_event_of_the_limit_fits_and_one_byte_more_does_not() {
        assert!(fit(9, &["data: 12\n\n"]));
        assert!(!fit(9, &["data: 123\n\n"]));
        assert!(!fit(9, &["data: 12", "34"]));
    }

    #[test]
    fn each_event_counts_by_itself() {
        assert!(fit(9, &["data: 12\n\ndata: 12\n\n", "data: 12\n\n"]));
        assert!(fit(
            9,
            &["data: 1\r\n\r", "\ndata: 1\r\r", "data: 1\r\n\r\n"]
        ));
    }

    #[test]
    fn the_lines_of_an_event_add_up() {
        assert!(!fit(20, &["data: 12\ndata: 12\ndata: 12\n\n"]));
        assert!(!fit(20, &["data: 12\r\ndata: 12\r", "\ndata: 12\r\n\r\n"]));
    }

    #[test]
    fn comments_add_up_to_nothing_but_each_is_limited() {
        assert!(fit(9, &[": ping\n", ": ping\n", ": ping\n", "data: 1\n\n"]));
        assert!(!fit(9, &[": ping", " ping"]));
    }
}
