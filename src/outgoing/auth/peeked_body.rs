use std::{
    collections::VecDeque,
    fmt,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// How many bytes of a body are looked at.
const LIMIT: usize = 8 << 10;

pin_project! {
    /// The body of a response behind [`retry_rejected`](crate::AuthLayer::retry_rejected): that of the inner service,
    /// unchanged.
    ///
    /// If the strategy had to look at the first bytes of the body, these come first, in the frames that they arrived in.
    /// The rest is streamed. Otherwise this is the inner body and nothing else.
    pub struct PeekedBody<B>
    where
        B: Body,
    {
        first: Option<Box<First<B>>>,
        #[pin]
        rest: Rest<B>,
    }
}

/// The beginning of a body, which was read.
struct First<B: Body> {
    frames: VecDeque<Frame<B::Data>>,
    error: Option<B::Error>,
    has_ended: bool,
}

pin_project! {
    #[project = RestProjection]
    enum Rest<B> {
        InPlace {
            #[pin]
            body: B,
        },
        Boxed {
            body: Pin<Box<B>>,
        },
    }
}

impl<B: Body> PeekedBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self {
            first: None,
            rest: Rest::InPlace { body },
        }
    }
}

impl<B: Body> Body for PeekedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(first) = this.first {
            if let Some(frame) = first.frames.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if let Some(error) = first.error.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if first.has_ended {
                return Poll::Ready(None);
            }
            *this.first = None;
        }
        match this.rest.project() {
            RestProjection::InPlace { body } => body.poll_frame(cx),
            RestProjection::Boxed { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_read = |first: &First<B>| first.frames.is_empty() && first.error.is_none();
        match self.first.as_deref() {
            Some(first) if !is_read(first) => false,
            Some(first) if first.has_ended => true,
            _ => self.rest.body().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.body().size_hint();
        let Some(first) = self.first.as_deref() else {
            return rest;
        };
        let read = first.frames.iter().filter_map(Frame::data_ref);
        let read = read.map(|data| data.remaining() as u64).sum::<u64>();
        if first.has_ended {
            return SizeHint::with_exact(read);
        }
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint.set_lower(
            rest.lower()
                .saturating_add(read)
                .min(hint.upper().unwrap_or(u64::MAX)),
        );
        hint
    }
}

impl<B> Rest<B> {
    fn body(&self) -> &B {
        match self {
            Self::InPlace { body } => body,
            Self::Boxed { body } => body,
        }
    }
}

impl<B: Body> fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekedBody").finish_non_exhaustive()
    }
}

/// Reads the first bytes of a body: 8 KiB, or all of it.
pub(super) struct Peeking<B: Body> {
    bytes: Vec<u8>,
    first: First<B>,
    body: Pin<Box<B>>,
}

impl<B: Body> Peeking<B> {
    pub(super) fn start(body: B) -> Self {
        Self {
            bytes: Vec::new(),
            first: First {
                frames: VecDeque::new(),
                error: None,
                has_ended: false,
            },
            body: Box::pin(body),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.first.has_ended && self.bytes.len() < LIMIT {
            match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        append(&mut self.bytes, data);
                    }
                    self.first.frames.push_back(frame);
                }
                Some(Err(error)) => {
                    self.first.error = Some(error);
                    self.first.has_ended = true;
                }
                None => self.first.has_ended = true,
            }
        }
        Poll::Ready(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_body(self) -> PeekedBody<B> {
        PeekedBody {
            first: Some(Box::new(self.first)),
            rest: Rest::Boxed { body: self.body },
        }
    }
}

/// Copies what is there of the data, up to the limit, and takes nothing out of it.
fn append(bytes: &mut Vec<u8>, data: &impl Buf) {
    let mut slices = [IoSlice::new(&[]); 16];
    let count = data.chunks_vectored(&mut slices);
    for slice in slices.iter().take(count) {
        let missing = LIMIT.saturating_sub(bytes.len());
        bytes.extend(slice.iter().take(missing));
    }
}
