//! The answer that a request waits for.
//!
//! The SDK passes on any message, and forgets one whose id no request has. Then the caller of the request waits for
//! ever. So each answer gets the id of its request, or becomes an error.

use ::rmcp::{
    ErrorData,
    model::{
        ClientJsonRpcMessage, ClientRequest, ErrorCode, JsonRpcMessage, RequestId,
        ServerJsonRpcMessage,
    },
    transport::streamable_http_client::StreamableHttpError,
};
use serde_json::Value;

use super::Result;

const NOT_THE_ANSWER: &str = "the MCP server answered with something else than the answer";
const UNREADABLE: &str = "the answer of the MCP server cannot be read";

pub(super) enum Event {
    NoAnswer,
    Answer,
    /// An answer that the SDK would not take for one. This is the data that it takes.
    Corrected(String),
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    id: RequestId,
    is_discovery: bool,
    is_subscription: bool,
}

impl Awaited {
    /// Returns `None` for a message that asks for nothing: a notification, or an answer to the server.
    pub(super) fn by(message: &ClientJsonRpcMessage) -> Option<Self> {
        match message {
            JsonRpcMessage::Request(request) => Some(Self {
                id: request.id.clone(),
                is_discovery: matches!(request.request, ClientRequest::DiscoverRequest(_)),
                is_subscription: matches!(
                    request.request,
                    ClientRequest::SubscriptionsListenRequest(_)
                ),
            }),
            _ => None,
        }
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.is_discovery
    }

    /// Whether its stream has the events that the client subscribed to, and its answer comes after the last one.
    pub(super) fn is_subscription(&self) -> bool {
        self.is_subscription
    }

    /// Reads the JSON of a successful response.
    pub(super) fn answer(&self, json: &[u8]) -> Result<ServerJsonRpcMessage> {
        match serde_json::from_slice(json) {
            Ok(ServerJsonRpcMessage::Response(response)) if self.has_id(&response.id) => {
                Ok(ServerJsonRpcMessage::Response(response))
            }
            Ok(ServerJsonRpcMessage::Error(error)) => Ok(self.refusal(error.error)),
            Ok(_) => Err(StreamableHttpError::UnexpectedServerResponse(
                NOT_THE_ANSWER.into(),
            )),
            Err(error) => json_rpc_error(json)
                .map(|refusal| self.refusal(refusal))
                .ok_or(error.into()),
        }
    }

    /// Reads the data of an event on the request's own stream.
    pub(super) fn event(&self, data: &str) -> Event {
        let answer = match serde_json::from_str(data) {
            Ok(ServerJsonRpcMessage::Response(response)) if self.has_id(&response.id) => {
                return Event::Answer;
            }
            Ok(ServerJsonRpcMessage::Response(_)) => self.refusal(unusable(NOT_THE_ANSWER)),
            Ok(ServerJsonRpcMessage::Error(error)) => self.refusal(error.error),
            Ok(_) => return Event::NoAnswer,
            Err(_) => match json_rpc_error(data.as_bytes()) {
                Some(error) => self.refusal(error),
                None if is_result(data) => self.refusal(unusable(UNREADABLE)),
                None => return Event::NoAnswer,
            },
        };
        serde_json::to_string(&answer).map_or(Event::NoAnswer, Event::Corrected)
    }

    pub(super) fn refusal(&self, error: ErrorData) -> ServerJsonRpcMessage {
        ServerJsonRpcMessage::error(error, Some(self.id.clone()))
    }

    /// Some servers send the number as a string, which the SDK accepts.
    fn has_id(&self, id: &RequestId) -> bool {
        match (&self.id, id) {
            (RequestId::Number(number), RequestId::String(text)) => text.parse() == Ok(*number),
            (own, id) => own == id,
        }
    }
}

/// Reads a JSON-RPC error, whatever its id is.
pub(super) fn json_rpc_error(json: &[u8]) -> Option<ErrorData> {
    let message: Value = serde_json::from_slice(json).ok()?;
    let error = message.get("error")?;
    // A code outside of the range is no reason to withhold the message.
    let code = error.get("code")?.as_i64()?;
    let code = i32::try_from(code).map_or(ErrorCode::INTERNAL_ERROR, ErrorCode);
    let text = error.get("message").and_then(Value::as_str);
    let text = text.unwrap_or_default().to_owned();
    let data = error.get("data").filter(|data| !data.is_null()).cloned();
    Some(ErrorData::new(code, text, data))
}

fn unusable(message: &'static str) -> ErrorData {
    ErrorData::internal_error(message, None)
}

fn is_result(data: &str) -> bool {
    serde_json::from_str::<Value>(data)
        .is_ok_and(|message| message.get("result").is_some() && message.get("method").is_none())
}
