//! The events of an MCP server: the limit of one and the size of a chunk in the first line, then the body.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use rmcp::transport::streamable_http_client::{SseError, StreamableHttpClient};
use sse_stream::{Sse, SseStream};
use tower::service_fn;
use tower_identity::client::rmcp::{TowerHttpClient, TowerHttpError};

use crate::harness::{line, wait};

pub(crate) fn check(input: &[u8]) {
    let mut body = input;
    let first = String::from_utf8_lossy(line(&mut body)).into_owned();
    let mut numbers = first.split(' ').map(|number| number.parse().unwrap_or(0));
    let limit: usize = numbers.next().unwrap_or(0);
    let chunk_size: usize = numbers.next().unwrap_or(0).clamp(1, 1 << 16);

    let all_at_once = Read::of(body, body.len().max(1), usize::MAX);
    let in_chunks = Read::of(body, chunk_size, usize::MAX);
    all_at_once.assert_is_bounded(body, usize::MAX);
    in_chunks.assert_is_bounded(body, usize::MAX);
    assert_eq!(
        in_chunks.fault, all_at_once.fault,
        "it depends on the chunks"
    );
    if in_chunks.fault.is_none() {
        assert_eq!(
            in_chunks.events, all_at_once.events,
            "they depend on the chunks"
        );
        // Without a limit it is what the parser makes of it.
        assert_eq!(in_chunks.events, parsed(body));
    }

    let limited = Read::of(body, chunk_size, limit);
    limited.assert_is_bounded(body, limit);
    let other = Read::of(body, 1, limit);
    if [&limited.fault, &other.fault]
        .iter()
        .all(|fault| **fault != Some(Fault::Malformed))
    {
        assert_eq!(
            limited.events, other.events,
            "the limit depends on the chunks"
        );
        assert_eq!(
            limited.fault, other.fault,
            "the limit depends on the chunks"
        );
        if in_chunks.fault.is_none() {
            assert!(
                in_chunks.events.starts_with(&limited.events),
                "other events than came"
            );
        }
    }
}

#[derive(Debug)]
struct Read {
    events: Vec<Sse>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    TooLarge,
    Malformed,
}

impl Read {
    fn of(body: &[u8], chunk_size: usize, limit: usize) -> Self {
        let chunks: Vec<_> = body
            .chunks(chunk_size)
            .map(Bytes::copy_from_slice)
            .collect();
        let most = body.len() + 2;
        let client = TowerHttpClient::new(service_fn(move |_: Request<Full<Bytes>>| {
            let frames = chunks
                .clone()
                .into_iter()
                .map(|chunk| Ok::<_, std::convert::Infallible>(Frame::data(chunk)));
            let mut response = Response::new(StreamBody::new(stream::iter(frames)));
            let event_stream = http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(CONTENT_TYPE, event_stream);
            async { Ok::<_, std::convert::Infallible>(response) }
        }));
        let items: Vec<_> = wait(async {
            let stream = client.get_stream_with_max_sse_event_size(
                "https://mcp.example.com/mcp".into(),
                None,
                None,
                None,
                HashMap::new(),
                limit,
            );
            stream.await.unwrap().take(most).collect().await
        });
        assert!(items.len() < most, "there is no end");
        let mut read = Self {
            events: Vec::new(),
            fault: None,
        };
        for item in items {
            match item {
                Ok(event) if read.fault.is_none() => read.events.push(event),
                Ok(_) => {}
                Err(error) => read.fault = read.fault.or(Some(Fault::of(&error))),
            }
        }
        read
    }

    fn assert_is_bounded(&self, body: &[u8], limit: usize) {
        let size = |event: &Sse| {
            [&event.data, &event.event, &event.id]
                .into_iter()
                .flatten()
                .map(String::len)
                .sum::<usize>()
        };
        assert!(self.events.iter().all(|event| size(event) <= limit));
        assert!(self.events.iter().map(size).sum::<usize>() <= body.len());
    }
}

impl Fault {
    fn of(error: &SseError) -> Self {
        match error {
            SseError::Body(error) => match error.downcast_ref() {
                Some(TowerHttpError::EventTooLarge { .. }) => Self::TooLarge,
                _ => panic!("{error:?}"),
            },
            _ => Self::Malformed,
        }
    }
}

fn parsed(body: &[u8]) -> Vec<Sse> {
    let events = SseStream::new(Full::new(Bytes::copy_from_slice(body)));
    wait(events.map(Result::unwrap).collect())
}
