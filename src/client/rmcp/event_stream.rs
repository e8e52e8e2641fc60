use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::rmcp::transport::streamable_http_client::SseError;
use bytes::{Buf, Bytes};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use sse_stream::{Sse, SseStream};
use tokio::time::Instant;
use tower::BoxError;

use super::{
    TowerHttpError,
    answer::{Awaited, Event},
    resume_points::{ResumePoint, ResumePoints, Resumption},
    silence::{Impatient, Patience},
};

pub(super) type EventStream = BoxStream<'static, Result<Sse, SseError>>;

pub(super) struct Events {
    pub(super) max_event_size: usize,
    pub(super) resume_point: ResumePoint,
    pub(super) resume_points: Arc<ResumePoints>,
}

/// A request whose answer a stream brings.
pub(super) struct Call {
    /// `None` on a stream that was resumed: the event ids of some servers are not unique.
    awaited: Option<Awaited>,
    patience: Patience,
    give_up_at: Option<Instant>,
    is_answered: bool,
}

impl Call {
    pub(super) fn new(awaited: Awaited, patience: Patience) -> Self {
        Self {
            patience: match awaited.is_subscription() {
                true => patience.without_end(),
                false => patience,
            },
            awaited: Some(awaited),
            give_up_at: None,
            is_answered: false,
        }
    }

    pub(super) fn resumed(give_up_at: Instant, patience: Patience) -> Self {
        Self {
            awaited: None,
            patience,
            give_up_at: Some(give_up_at),
            is_answered: false,
        }
    }

    /// The SDK takes an answer only if it has the id of the request.
    fn received(&mut self, event: &mut Sse) {
        let (Some(awaited), Some(data)) = (&self.awaited, &event.data) else {
            return;
        };
        match awaited.event(data) {
            Event::NoAnswer => {}
            Event::Answer => self.is_answered = true,
            Event::Corrected(data) => {
                event.data = Some(data);
                self.is_answered = true;
            }
        }
    }

    fn give_up_at(&self) -> Option<Instant> {
        self.give_up_at.or_else(|| self.patience.next_end())
    }
}

impl Events {
    /// Returns the events of `body` as they arrive. They end with an error at an event that is too large, and where a
    /// call waits for them, after its time without a byte.
    pub(super) fn of<B>(mut self, mut call: Option<Call>, body: B) -> EventStream
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let body = EventLimit {
            body: Impatient::new(body, call.as_ref().map(|call| call.patience)),
            meter: EventMeter::new(self.max_event_size),
            state: State::Open,
        };
        let mut events = SseStream::new(body).boxed();
        let events = stream::poll_fn(move |cx| {
            let mut event = ready!(events.poll_next_unpin(cx));
            match &mut event {
                Some(Ok(event)) => self.received(event, call.as_mut()),
                Some(Err(error)) => self.failed(error, call.as_ref()),
                None => self.ended(call.as_ref()),
            }
            Poll::Ready(event)
        });
        events.boxed()
    }

    fn received(&mut self, event: &mut Sse, call: Option<&mut Call>) {
        let has_data = event.data.as_ref().is_some_and(|data| !data.is_empty());
        let has_new_id = event.id.is_some() && event.id != self.resume_point.last_event_id;
        if has_new_id {
            self.resume_point.last_event_id.clone_from(&event.id);
        }
        if let Some(call) = call {
            if has_data || has_new_id {
                call.give_up_at = None;
            }
            call.received(event);
        }
    }

    fn failed(&self, error: &SseError, call: Option<&Call>) {
        if !would_recur(error) {
            self.ended(call);
        } else if call.is_none() || self.resume_point.last_event_id.is_some() {
            // The SDK resumes the answer to a `POST` only if that had an event id.
            self.resume_points
                .add(&self.resume_point, Resumption::Never);
        }
    }

    fn ended(&self, call: Option<&Call>) {
        if let Some(call) = call.filter(|call| !call.is_answered)
            && self.resume_point.last_event_id.is_some()
            && let Some(give_up_at) = call.give_up_at()
        {
            self.resume_points.add(
                &self.resume_point,
                Resumption::Until(give_up_at, call.patience),
            );
        }
    }
}

/// A connection that broke may hold the next time. A bad event comes again, and a silent server stays silent.
fn would_recur(error: &SseError) -> bool {
    match error {
        SseError::Body(error) => {
            matches!(
                error.downcast_ref(),
                Some(TowerHttpError::EventTooLarge { .. } | TowerHttpError::NoAnswer { .. })
            )
        }
        _ => true,
    }
}

pin_project! {
    /// A body that fails at an event that is too large, before the parser above keeps its bytes.
    struct EventLimit<B> {
        #[pin]
        body: B,
        meter: EventMeter,
        state: State,
    }
}

#[derive(Clone, Copy)]
enum State {
    Open,
    TooLarge,
    Failed,
}

impl<B: Body<Error = TowerHttpError>> Body for EventLimit<B> {
    type Data = Bytes;
    type Error = TowerHttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TowerHttpError>>> {
        let this = self.project();
        let data = match *this.state {
            State::Open => match ready!(this.body.poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().ok(),
                Some(Err(error)) => {
                    *this.state = State::Failed;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            },
            State::TooLarge => {
                *this.state = State::Failed;
                return Poll::Ready(Some(Err(TowerHttpError::EventTooLarge {
                    max_size: this.meter.max_size,
                })));
            }
            State::Failed => return Poll::Ready(None),
        };
        let mut data =
            data.map_or_else(Bytes::new, |mut data| data.copy_to_bytes(data.remaining()));
        if let Err(whole_events) = this.meter.fits(&data) {
            *this.state = State::TooLarge;
            data.truncate(whole_events);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

/// Counts the bytes that a parser keeps of the current event: its lines, but not its comments.
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

    /// If the current event does not fit, returns how many bytes belong to the events before it.
    fn fits(&mut self, data: &[u8]) -> Result<(), usize> {
        let mut whole_events = 0;
        let mut read = 0;
        for piece in data.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            if !self.piece_fits(piece) {
                return Err(whole_events);
            }
            read += piece.len();
            if self.kept == 0 && self.line == 0 {
                whole_events = read;
            }
        }
        Ok(())
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
        chunks
            .iter()
            .all(|chunk| meter.fits(chunk.as_bytes()).is_ok())
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
    fn the_events_before_are_told_from_the_one_that_is_too_large() {
        let mut meter = EventMeter::new(9);
        assert_eq!(meter.fits(b"data: 1\n\ndata: 1234\n\n"), Err(9));
        let mut meter = EventMeter::new(9);
        assert_eq!(meter.fits(b"data: 1\r\n\r"), Ok(()));
        assert_eq!(meter.fits(b"\ndata: 1\n\ndata: 1234"), Err(10));
        let mut meter = EventMeter::new(9);
        assert_eq!(meter.fits(b"data: 1"), Ok(()));
        assert_eq!(meter.fits(b"234\n\n"), Err(0));
        let mut meter = EventMeter::new(9);
        assert_eq!(meter.fits(b"data: 1\ndata: 2\n\n"), Err(0));
    }

    #[test]
    fn comments_add_up_to_nothing_but_each_is_limited() {
        assert!(fit(9, &[": ping\n", ": ping\n", ": ping\n", "data: 1\n\n"]));
        assert!(!fit(9, &[": ping", " ping"]));
    }
}
