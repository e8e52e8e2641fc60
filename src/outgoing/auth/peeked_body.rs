use std::{
    collections::VecDeque,
    fmt,
    io::IoSlice,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// How many bytes of a body are looked at.
const MAX_BYTES: usize = 8 << 10;
#[cfg(feature = "token-exchange")]
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(5);
/// A frame may be empty, and a body may have them without end.
const MAX_FRAMES: usize = 1024;

pin_project! {
    /// The body of a response behind [`retry_rejected`](crate::AuthLayer::retry_rejected): that of the inner service,
    /// unchanged.
    ///
    /// If the strategy had to look at the first bytes of the body, these come first, in the frames that they arrived in.
    /// The rest is streamed. Otherwise this is the inner body and nothing else.
    ///
    /// [`AuthLayer`](crate::AuthLayer) has an example.
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
}

pin_project! {
    #[project = RestProjection]
    enum Rest<B> {
        InPlace {
            #[pin]
            body: B,
        },
        /// Without one, the body has ended.
        Boxed {
            body: Option<Pin<Box<B>>>,
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
            *this.first = None;
        }
        match this.rest.project() {
            RestProjection::InPlace { body } => body.poll_frame(cx),
            RestProjection::Boxed { body: Some(body) } => body.as_mut().poll_frame(cx),
            RestProjection::Boxed { body: None } => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_read = |first: &First<B>| first.frames.is_empty() && first.error.is_none();
        self.first.as_deref().is_none_or(is_read)
            && self.rest.body().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match self.rest.body() {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let Some(first) = self.first.as_deref() else {
            return rest;
        };
        let read = first.frames.iter().filter_map(Frame::data_ref);
        let read = read.map(|data| data.remaining() as u64).sum::<u64>();
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
    fn body(&self) -> Option<&B> {
        match self {
            Self::InPlace { body } => Some(body),
            Self::Boxed { body } => body.as_deref(),
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
    /// Until the body has ended.
    rest: Option<Pin<Box<B>>>,
    /// Since the first byte that was waited for.
    #[cfg(feature = "token-exchange")]
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<B: Body> Peeking<B> {
    pub(super) fn start(body: B) -> Self {
        Self {
            bytes: Vec::new(),
            first: First::default(),
            rest: Some(Box::pin(body)),
            #[cfg(feature = "token-exchange")]
            wait: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(rest) = &mut self.rest
            && self.bytes.len() < MAX_BYTES
            && self.first.frames.len() < MAX_FRAMES
        {
            let polled = rest.as_mut().poll_frame(cx);
            if polled.is_pending() && self.is_late(cx) {
                break;
            }
            match ready!(polled) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        append(&mut self.bytes, data);
                    }
                    self.first.frames.push_back(frame);
                }
                Some(Err(error)) => {
                    self.first.error = Some(error);
                    self.rest = None;
                }
                None => self.rest = None,
            }
        }
        Poll::Ready(())
    }

    /// Whether the bytes that are there must do.
    #[cfg(feature = "token-exchange")]
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        // Outside of a runtime there is no timer.
        if self.wait.is_none() && tokio::runtime::Handle::try_current().is_ok() {
            self.wait = Some(Box::pin(tokio::time::sleep(MAX_WAIT)));
        }
        let wait = self.wait.as_mut();
        wait.is_some_and(|wait| wait.as_mut().poll(cx).is_ready())
    }

    /// Without this feature no strategy of this crate reads a body.
    #[cfg(not(feature = "token-exchange"))]
    fn is_late(&mut self, _: &mut Context<'_>) -> bool {
        false
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the whole body, of which an ended one is left.
    pub(super) fn take(&mut self) -> PeekedBody<B> {
        PeekedBody {
            first: Some(Box::new(mem::take(&mut self.first))),
            rest: Rest::Boxed {
                body: self.rest.take(),
            },
        }
    }
}

impl<B: Body> Default for First<B> {
    fn default() -> Self {
        Self {
            frames: VecDeque::new(),
            error: None,
        }
    }
}

/// Copies what is there of the data, up to the limit, and takes nothing out of it.
fn append(bytes: &mut Vec<u8>, data: &impl Buf) {
    let mut slices = [IoSlice::new(&[]); 16];
    let count = data.chunks_vectored(&mut slices);
    for slice in slices.iter().take(count) {
        let missing = MAX_BYTES.saturating_sub(bytes.len());
        bytes.extend(slice.iter().take(missing));
    }
}
