use std::{
    any::{Any, TypeId},
    convert::Infallible,
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, TRAILER},
};
use http_body::{Body, Frame, SizeHint};
use tower::BoxError;

use crate::error::{AuthError, AuthErrorKind};

const LIMIT: u64 = 10 << 20;

/// A request's body that was read to its end, so that it could be signed.
///
/// It is a body itself: the same bytes, and the same trailers.
pub(super) struct GatheredBody {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
}

impl GatheredBody {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }
}

impl Body for GatheredBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.has_remaining() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.bytes)))));
        }
        let trailers = self.trailers.take().map(Frame::trailers);
        Poll::Ready(trailers.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.len() as u64;
        match self.trailers {
            None => SizeHint::with_exact(length),
            // HTTP/1.1 sends no trailers after a body whose length it knows (RFC 9112 §7.1.2).
            Some(_) => {
                let mut hint = SizeHint::new();
                hint.set_lower(length);
                hint
            }
        }
    }
}

/// Reads a body to its end, up to 10 MiB.
pub(super) struct Gathering<B> {
    body: Source<B>,
    declared: Declared,
    gathered: Gathered,
    trailers: Option<HeaderMap>,
}

enum Source<B> {
    /// It had nothing to read, and is passed on as it is.
    Empty(Option<B>),
    /// It is not signed, and is passed on as it is.
    Unread {
        body: Option<B>,
        has_trailers: bool,
    },
    Reading(Pin<Box<B>>),
}

enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

/// A body that is ready to be sent.
pub(super) enum Payload<B> {
    Empty(B),
    /// It is not signed. Whether it has trailers is what the request's head says.
    Unread {
        body: B,
        has_trailers: bool,
    },
    Read(GatheredBody),
}

impl<B> Payload<B> {
    /// `None` is a body that was not read.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Empty(_) => Some(&[]),
            Self::Unread { .. } => None,
            Self::Read(gathered) => Some(gathered.bytes()),
        }
    }

    pub(super) fn has_trailers(&self) -> bool {
        match self {
            Self::Empty(_) => false,
            Self::Unread { has_trailers, .. } => *has_trailers,
            Self::Read(gathered) => gathered.has_trailers(),
        }
    }
}

impl<B> Gathering<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Fails at once where the length that is declared is too much.
    pub(super) fn start(headers: &HeaderMap, body: B) -> Result<Self, AuthError> {
        let declared = Declared::of(headers, &body)?;
        Ok(Self {
            body: if body.is_end_stream() {
                Source::Empty(Some(body))
            } else {
                Source::Reading(Box::pin(body))
            },
            declared,
            gathered: Gathered::Nothing,
            trailers: None,
        })
    }

    /// Passes the body on without reading it.
    pub(super) fn unread(headers: &HeaderMap, body: B) -> Self {
        Self {
            body: Source::Unread {
                body: Some(body),
                has_trailers: headers.contains_key(TRAILER),
            },
            declared: Declared::default(),
            gathered: Gathered::Nothing,
            trailers: None,
        }
    }

    pub(super) async fn finish(mut self) -> Result<Payload<B>, AuthError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Payload<B>, AuthError>> {
        let Self {
            body,
            declared,
            gathered,
            trailers,
        } = self;
        let body = match body {
            Source::Empty(body) => {
                let untouched = body.take().map(Payload::Empty);
                return Poll::Ready(declared.check(0).and(untouched.ok_or_else(read_twice)));
            }
            Source::Unread { body, has_trailers } => {
                let body = body.take().ok_or_else(read_twice)?;
                return Poll::Ready(Ok(Payload::Unread {
                    body,
                    has_trailers: *has_trailers,
                }));
            }
            Source::Reading(body) => body,
        };
        while let Some(frame) = ready!(body.as_mut().poll_frame(cx)) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Err(unreadable(error))),
            };
            match frame.into_data() {
                Ok(data) => {
                    let total = gathered.length() + data.remaining() as u64;
                    if total > declared.limit() {
                        return Poll::Ready(Err(declared.exceeded()));
                    }
                    gathered.append(data);
                }
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        trailers.get_or_insert_default().extend(more);
                    }
                }
            }
        }
        let gathered = GatheredBody {
            bytes: mem::replace(gathered, Gathered::Nothing).into_bytes(),
            trailers: trailers.take(),
        };
        let length = gathered.bytes.len() as u64;
        Poll::Ready(declared.check(length).map(|()| Payload::Read(gathered)))
    }
}

impl Gathered {
    fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len() as u64,
            Self::Many(bytes) => bytes.len() as u64,
        }
    }

    /// Takes over data that is in one piece, and copies no byte of it.
    fn append(&mut self, mut data: impl Buf) {
        if !data.has_remaining() {
            return;
        }
        match self {
            Self::Nothing => *self = Self::One(data.copy_to_bytes(data.remaining())),
            Self::One(first) => {
                let mut bytes = BytesMut::with_capacity(2 * (first.len() + data.remaining()));
                bytes.put(mem::take(first));
                bytes.put(data);
                *self = Self::Many(bytes);
            }
            Self::Many(bytes) => bytes.put(data),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

/// The length that a body declares before it is read.
#[derive(Default)]
struct Declared {
    lower: u64,
    upper: Option<u64>,
}

impl Declared {
    fn of(headers: &HeaderMap, body: &impl Body) -> Result<Self, AuthError> {
        let hint = body.size_hint();
        let mut declared = Self {
            lower: hint.lower(),
            upper: hint.upper(),
        };
        for length in headers.get_all(CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            let length = length.ok_or_else(lied)?;
            declared.lower = declared.lower.max(length);
            declared.upper = Some(declared.upper.map_or(length, |upper| upper.min(length)));
        }
        if declared.lower > LIMIT {
            return Err(too_large());
        }
        Ok(declared)
    }

    fn limit(&self) -> u64 {
        self.upper.map_or(LIMIT, |upper| upper.min(LIMIT))
    }

    fn exceeded(&self) -> AuthError {
        if self.limit() < LIMIT {
            lied()
        } else {
            too_large()
        }
    }

    /// Refuses a body that is too short. One that is too long was refused while it was read.
    fn check(&self, length: u64) -> Result<(), AuthError> {
        if length < self.lower {
            return Err(lied());
        }
        Ok(())
    }
}

/// How a body that was gathered becomes one of the request's type again.
#[derive(Clone, Default)]
pub(super) struct BodyFactories {
    factories: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

type BodyFactory<B> = Box<dyn Fn(GatheredBody) -> B + Send + Sync>;

impl BodyFactories {
    pub(super) fn add<B: 'static>(
        &mut self,
        factory: impl Fn(GatheredBody) -> B + Send + Sync + 'static,
    ) {
        let factory: BodyFactory<B> = Box::new(factory);
        let entry: Arc<dyn Any + Send + Sync> = Arc::new(factory);
        self.factories.push((TypeId::of::<B>(), entry));
    }

    pub(super) fn body<B>(&self, payload: Payload<B>) -> Result<B, AuthError>
    where
        B: From<Bytes> + 'static,
    {
        match payload {
            Payload::Empty(body) | Payload::Unread { body, .. } => Ok(body),
            Payload::Read(gathered) if gathered.has_trailers() => {
                let factory = self.find::<B>().ok_or_else(trailers_cannot_be_passed_on)?;
                Ok(factory(gathered))
            }
            Payload::Read(gathered) => Ok(B::from(gathered.bytes)),
        }
    }

    fn find<B: 'static>(&self) -> Option<&BodyFactory<B>> {
        // The one that was added last counts.
        let mut factories = self.factories.iter().rev();
        let (_, factory) = factories.find(|(body, _)| *body == TypeId::of::<B>())?;
        factory.downcast_ref()
    }
}

#[cold]
fn too_large() -> AuthError {
    AuthError::new(
        AuthErrorKind::PayloadTooLarge,
        "the request's body is larger than the 10 MiB that can be signed; it was not sent",
    )
}

#[cold]
fn lied() -> AuthError {
    AuthError::new(
        AuthErrorKind::PayloadTooLarge,
        "the request's body is not as long as its `content-length` or its size hint says; it was not sent",
    )
}

#[cold]
fn unreadable(error: impl Into<BoxError>) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the request's body broke off while it was read to be signed; it was not sent",
    )
    .with_source(error)
}

#[cold]
fn read_twice() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the request's body was read twice",
    )
}

#[cold]
fn trailers_cannot_be_passed_on() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the request's body has trailers, and its type cannot be made of bytes and trailers here; say how it is, with \
         `body_with_trailers`",
    )
}
