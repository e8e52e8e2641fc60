use std::collections::HashMap;

use ::rmcp::{
    model::{
        ClientJsonRpcMessage, ClientRequest, Extensions as MessageExtensions, GetExtensions,
        JsonRpcMessage,
    },
    transport::{
        common::http_header::{
            EVENT_STREAM_MIME_TYPE, HEADER_LAST_EVENT_ID, HEADER_SESSION_ID, JSON_MIME_TYPE,
        },
        streamable_http_client::StreamableHttpError,
    },
};
use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::Full;
use tower::BoxError;

use crate::{
    identity::Identity,
    outgoing::{headers::CapturedHeaders, identity::HealthCheck},
    secret::AccessToken,
};

use super::{Result, TowerHttpError, session_users::SessionUsers};

pub(super) struct RequestParts<'a> {
    pub(super) uri: &'a str,
    pub(super) session_id: Option<&'a str>,
    pub(super) auth_token: Option<String>,
    pub(super) custom_headers: HashMap<HeaderName, HeaderValue>,
}

impl RequestParts<'_> {
    pub(super) fn post(
        self,
        message: &ClientJsonRpcMessage,
        users: &SessionUsers,
    ) -> Result<Request<Full<Bytes>>> {
        let body = serde_json::to_vec(message).map_err(invalid)?;
        let mut request = self.with_body(Method::POST, Bytes::from(body))?;
        let headers = request.headers_mut();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("text/event-stream, application/json"),
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON_MIME_TYPE));
        carry_extensions(message, users, request.extensions_mut());
        Ok(request)
    }

    pub(super) fn event_stream(self, last_event_id: Option<&str>) -> Result<Request<Full<Bytes>>> {
        let mut request = self.without_body(Method::GET)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM_MIME_TYPE));
        if let Some(id) = last_event_id {
            insert(headers, HEADER_LAST_EVENT_ID, id)?;
        }
        Ok(request)
    }

    pub(super) fn without_body(self, method: Method) -> Result<Request<Full<Bytes>>> {
        self.with_body(method, Bytes::new())
    }

    fn with_body(self, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.uri)
            .body(Full::new(body))
            .map_err(invalid)?;
        let headers = request.headers_mut();
        for (name, mut value) in self.custom_headers {
            if is_reserved(&name) {
                return Err(StreamableHttpError::ReservedHeaderConflict(
                    name.to_string(),
                ));
            }
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(id) = self.session_id {
            insert(headers, HEADER_SESSION_ID, id)?;
        }
        if let Some(token) = self.auth_token {
            let token = AccessToken::new(token).map_err(invalid)?;
            headers.insert(AUTHORIZATION, token.authorization().clone());
        }
        Ok(request)
    }
}

/// The transport sets these headers itself. It also sets `mcp-protocol-version`, but as a custom header.
fn is_reserved(name: &HeaderName) -> bool {
    [ACCEPT.as_str(), HEADER_SESSION_ID, HEADER_LAST_EVENT_ID]
        .iter()
        .any(|reserved| name.as_str().eq_ignore_ascii_case(reserved))
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), TowerHttpError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(invalid)?;
    let mut value = HeaderValue::from_str(value).map_err(invalid)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn invalid(error: impl Into<BoxError>) -> TowerHttpError {
    TowerHttpError::InvalidRequest(error.into())
}

fn carry_extensions(
    message: &ClientJsonRpcMessage,
    users: &SessionUsers,
    outgoing: &mut Extensions,
) {
    let carried = match message {
        JsonRpcMessage::Request(request) => request.request.extensions(),
        JsonRpcMessage::Notification(notification) => notification.notification.extensions(),
        JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => return,
    };
    if let Some(identity) = carried.get::<Identity>() {
        outgoing.insert(if is_initialize(message) {
            users.open(identity)
        } else {
            users.follow(identity);
            identity.clone()
        });
    }
    carry::<HealthCheck>(carried, outgoing);
    carry::<CapturedHeaders>(carried, outgoing);
}

fn carry<T: Clone + Send + Sync + 'static>(carried: &MessageExtensions, outgoing: &mut Extensions) {
    if let Some(extension) = carried.get::<T>() {
        outgoing.insert(extension.clone());
    }
}

fn is_initialize(message: &ClientJsonRpcMessage) -> bool {
    matches!(message, JsonRpcMessage::Request(request)
        if matches!(request.request, ClientRequest::InitializeRequest(_)))
}
