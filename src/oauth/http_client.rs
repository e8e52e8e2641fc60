//! Sends one bounded request over any Tower HTTP service, with a timeout, a maximum size and no redirects.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use crate::{
    error::AuthError,
    origin::{InvalidOrigin, Origin},
    runtime::within,
};

const BODY_LIMIT: usize = 1 << 20;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A type-erased HTTP client. Each call uses a clone of it.
#[derive(Clone)]
pub(crate) struct HttpClient {
    exchange: Arc<Exchange>,
    id: u64,
}

type Exchange = dyn Fn(Request<Full<Bytes>>) -> BoxFuture<Result<Answer, Failure>> + Send + Sync;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

pub(crate) enum Failure {
    Unreachable(BoxError),
    Interrupted(BoxError),
    TooLarge,
    TooLate,
}

impl HttpClient {
    pub(crate) fn new<S, ResBody>(client: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        Self {
            exchange: Arc::new(move |request| Box::pin(exchange(client.clone(), request))),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A number that this client and its clones have, and no other client of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the whole response, up to 1 MiB. The body of a redirect is not read.
    pub(crate) async fn call(
        &self,
        request: Request<Full<Bytes>>,
        time_limit: Duration,
    ) -> Result<Answer, Failure> {
        within(time_limit, (self.exchange)(request))
            .await
            .unwrap_or(Err(Failure::TooLate))
    }
}

impl Failure {
    /// Converts the failure into an error. `unavailable` makes the error from a description of what the server did.
    pub(crate) fn into_error(
        self,
        time_limit: Duration,
        unavailable: impl FnOnce(&str) -> AuthError,
    ) -> AuthError {
        match self {
            Self::Unreachable(source) => unavailable("cannot be reached").with_source(source),
            Self::Interrupted(source) => unavailable("broke off its answer").with_source(source),
            Self::TooLarge => unavailable("sent more than 1 MiB; the rest was not read"),
            Self::TooLate => unavailable(&format!("did not answer within {time_limit:?}")),
        }
    }
}

/// Checks a URL that requests are sent to, and returns it with its origin.
///
/// The URL must be absolute, without a fragment or user info, and `https` unless it is loopback or `insecure`.
///
/// The error says what is wrong as a sentence whose subject is the URL, and does not repeat it.
pub(crate) fn parse_url(url: &str, insecure: bool) -> Result<(Uri, Origin), &'static str> {
    // `Uri` drops a fragment without a word.
    if url.contains('#') {
        return Err("has a fragment, remove the `#` and all after it (RFC 6749 §3.2)");
    }
    let uri = url
        .parse::<Uri>()
        .map_err(|_| "is not a URL such as `https://idp.example.com/token`")?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err("is not an absolute URL, begin it with `https://` and a host");
    };
    let origin = format!("{scheme}://{authority}");
    let origin = if insecure {
        Origin::insecure(&origin)
    } else {
        Origin::try_from(origin)
    };
    match origin {
        Ok(origin) => Ok((uri, origin)),
        Err(InvalidOrigin::Insecure) => Err(
            "is plain http, which shows to the network what is sent; use https, plain http is for loopback and for a \
             network that is declared to be trusted",
        ),
        Err(InvalidOrigin::Scheme) => Err("does not begin with `https://` (or `http://`)"),
        Err(InvalidOrigin::Port) => Err("has a port that is not a number from 1 to 65535"),
        Err(InvalidOrigin::NotOnlyAnOrigin(_)) => {
            Err("has user info, which is a credential; remove it")
        }
        Err(InvalidOrigin::NotAUri | InvalidOrigin::Host) => Err(
            "has no usable host: it is a name in ASCII (`xn--…`), an IPv4 address, or an IPv6 address in brackets",
        ),
    }
}

/// Returns `true` if a response is labelled as JSON, or has no label.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    essence(headers).is_none_or(|essence| essence.ends_with(b"json"))
}

/// Returns `true` if a response is labelled as a form.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(|essence| essence == b"application/x-www-form-urlencoded")
}

fn essence(headers: &HeaderMap) -> Option<Vec<u8>> {
    let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
    let essence = content_type.split(|byte| *byte == b';').next()?;
    Some(essence.trim_ascii().to_ascii_lowercase())
}

async fn exchange<S, ResBody>(
    mut client: S,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Failure>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body,
    ResBody::Error: Into<BoxError>,
{
    poll_fn(|cx| client.poll_ready(cx))
        .await
        .map_err(|error| Failure::Unreachable(error.into()))?;
    let response = client
        .call(request)
        .await
        .map_err(|error| Failure::Unreachable(error.into()))?;
    let (head, body) = response.into_parts();
    let body = if head.status.is_redirection() {
        Zeroizing::default()
    } else {
        read(body).await?
    };
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

async fn read<ResBody>(body: ResBody) -> Result<Zeroizing<Vec<u8>>, Failure>
where
    ResBody: Body,
    ResBody::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| Failure::Interrupted(error.into()))?;
        if let Ok(data) = frame.into_data() {
            if data.remaining() > BODY_LIMIT.saturating_sub(bytes.len()) {
                return Err(Failure::TooLarge);
            }
            append(&mut bytes, data);
        }
    }
    Ok(bytes)
}

/// Grows `bytes` explicitly, because a `Vec` that moves leaves a copy that is not wiped.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: impl Buf) {
    let length = bytes.len() + data.remaining();
    if length > bytes.capacity() {
        let mut grown = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
        grown.extend_from_slice(bytes);
        *bytes = grown;
    }
    bytes.put(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_to_larger_memory_only_when_they_must_and_never_by_themselves() {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4));
        let first = bytes.as_ptr();
        append(&mut bytes, &b"1234"[..]);
        assert_eq!(bytes.as_ptr(), first);
        append(&mut bytes, &b"567890123"[..]);
        assert_eq!(**bytes, *b"1234567890123");
        // A `Vec` that grows by itself would have 13.
        assert_eq!(bytes.capacity(), 16);
    }
}
