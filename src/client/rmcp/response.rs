use std::pin::pin;

use ::rmcp::{
    ErrorData,
    model::ServerJsonRpcMessage,
    transport::{
        common::http_header::{EVENT_STREAM_MIME_TYPE, HEADER_SESSION_ID, JSON_MIME_TYPE},
        streamable_http_client::{
            AuthRequiredError, HttpStatusError, InsufficientScopeError, StreamableHttpError,
            StreamableHttpPostResponse,
        },
    },
};
use bytes::Buf;
use http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    response::Parts,
};
use http_body::Body;
use http_body_util::BodyExt;
use tower::BoxError;

use crate::bearer_challenge::BearerChallenge;

use super::{
    Result, TowerHttpError,
    answer::{Awaited, json_rpc_error},
    event_stream::{Call, EventStream, Events},
    silence::{Impatient, Patience, Silence},
};

/// How much of a response is read.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) json_size: usize,
    pub(super) error_size: usize,
    pub(super) patience: Patience,
}

pub(super) async fn posted<B>(
    response: Response<B>,
    awaited: Option<Awaited>,
    has_session: bool,
    limits: Limits,
    events: Events,
) -> Result<StreamableHttpPostResponse>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    match check(&head, has_session) {
        Ok(()) => {}
        Err(StreamableHttpError::HttpStatus(status)) => {
            return refused(status, head, body, awaited, has_session, limits).await;
        }
        Err(error) => return Err(error),
    }
    let Some(awaited) = awaited else {
        return Ok(StreamableHttpPostResponse::Accepted);
    };
    let session_id = session_id(&head.headers);
    if matches!(head.status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
        if !has_session {
            return Err(StreamableHttpError::UnexpectedServerResponse(
                "the MCP server accepted a request and did not answer it".into(),
            ));
        }
        // The answer may come on the session's event stream.
        let events = events.of(Some(Call::new(awaited, limits.patience)), Silence);
        return Ok(StreamableHttpPostResponse::Sse(events, session_id));
    }
    if is_media_type(&head.headers, EVENT_STREAM_MIME_TYPE) {
        let events = events.of(Some(Call::new(awaited, limits.patience)), body);
        return Ok(StreamableHttpPostResponse::Sse(events, session_id));
    }
    if !is_media_type(&head.headers, JSON_MIME_TYPE) {
        return Err(unexpected_content_type(&head.headers));
    }
    let body = read(body, limits.json_size, limits.patience).await?;
    let answer = awaited.answer(&body)?;
    Ok(StreamableHttpPostResponse::Json(answer, session_id))
}

pub(super) fn streamed<B>(
    response: Response<B>,
    has_session: bool,
    call: Option<Call>,
    events: Events,
) -> Result<EventStream>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    if head.status == StatusCode::METHOD_NOT_ALLOWED {
        return Err(StreamableHttpError::ServerDoesNotSupportSse);
    }
    check(&head, has_session)?;
    if !is_media_type(&head.headers, EVENT_STREAM_MIME_TYPE) {
        return Err(unexpected_content_type(&head.headers));
    }
    Ok(events.of(call, body))
}

/// Whether the SDK would get the same answer if it resumed a call's stream again and again.
pub(super) fn is_final(error: &StreamableHttpError<TowerHttpError>) -> bool {
    match error {
        StreamableHttpError::SessionExpired | StreamableHttpError::UnexpectedContentType(_) => true,
        StreamableHttpError::HttpStatus(error) => {
            matches!(error.status, 300..=499) && !matches!(error.status, 408 | 425 | 429)
        }
        _ => false,
    }
}

pub(super) fn deleted<B>(response: Response<B>) -> Result<()> {
    let (head, _) = response.into_parts();
    if head.status == StatusCode::METHOD_NOT_ALLOWED {
        return Err(StreamableHttpError::ServerDoesNotSupportDeleteSession);
    }
    check(&head, true)
}

fn check(head: &Parts, has_session: bool) -> Result<()> {
    if head.status.is_success() {
        return Ok(());
    }
    let challenge = challenge(&head.headers);
    Err(match (head.status, challenge) {
        (StatusCode::UNAUTHORIZED, Some(challenge)) => {
            StreamableHttpError::AuthRequired(AuthRequiredError::new(challenge))
        }
        (StatusCode::FORBIDDEN, Some(challenge)) => {
            let scope = BearerChallenge::read(&head.headers).and_then(|challenge| challenge.scope);
            StreamableHttpError::InsufficientScope(InsufficientScopeError::new(challenge, scope))
        }
        (StatusCode::NOT_FOUND, _) if has_session => StreamableHttpError::SessionExpired,
        (status, _) => {
            HttpStatusError::new(status.as_u16(), text(&head.headers, RETRY_AFTER)).into()
        }
    })
}

/// A JSON-RPC error in the body is the server's answer.
async fn refused<B>(
    status: HttpStatusError,
    head: Parts,
    body: B,
    awaited: Option<Awaited>,
    has_session: bool,
    limits: Limits,
) -> Result<StreamableHttpPostResponse>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if matches!(
        head.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    ) {
        return Err(status.into());
    }
    let mut error = None;
    if is_media_type(&head.headers, JSON_MIME_TYPE)
        && let Ok(body) = read(body, limits.error_size, limits.patience).await
    {
        error = json_rpc_error(&body);
    }
    let session_id = session_id(&head.headers);
    let Some(awaited) = awaited else {
        let error = error.map(|error| ServerJsonRpcMessage::error(error, None));
        return error
            .map(|error| StreamableHttpPostResponse::Json(error, session_id))
            .ok_or(status.into());
    };
    if awaited.is_discovery() && !has_session && head.status.is_client_error() {
        // A server that does not know `server/discover` refuses it in its own way. The SDK goes on with `initialize`
        // only after a JSON-RPC error.
        let error = error.unwrap_or_else(|| {
            ErrorData::invalid_request(format!("server/discover: {status}"), None)
        });
        let answer = awaited.refusal(error);
        return Ok(StreamableHttpPostResponse::Json(answer, None));
    }
    error
        .map(|error| StreamableHttpPostResponse::Json(awaited.refusal(error), session_id))
        .ok_or(status.into())
}

async fn read<B>(body: B, max_size: usize, patience: Patience) -> Result<Vec<u8>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let too_large = || StreamableHttpError::ResponseBodyTooLarge { max_size };
    if body.size_hint().lower() > max_size as u64 {
        return Err(too_large());
    }
    // Copied, because keeping a million frames of one byte each takes far more than a million bytes.
    let mut bytes = Vec::new();
    let mut body = pin!(Impatient::new(body, Some(patience)));
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else {
            continue;
        };
        if data.remaining() > max_size - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(bytes)
}

/// All challenges that are text (RFC 9110 §11.6.1), joined as if they had come in one header.
fn challenge(headers: &HeaderMap) -> Option<String> {
    let challenges: Vec<_> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|challenge| challenge.to_str().ok())
        .filter(|challenge| !challenge.trim().is_empty())
        .collect();
    (!challenges.is_empty()).then(|| challenges.join(", "))
}

fn session_id(headers: &HeaderMap) -> Option<String> {
    text(headers, HEADER_SESSION_ID)
}

fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn is_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

fn unexpected_content_type(headers: &HeaderMap) -> StreamableHttpError<TowerHttpError> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    StreamableHttpError::UnexpectedContentType(content_type)
}
