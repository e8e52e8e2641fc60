use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde_json::{Map, Value, json};

use crate::error::{AuthError, mcp};

/// The calls whose result may ask for input first, since 2026-07-28.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// A JSON-RPC request of an MCP client, as far as the answer to an [`AuthError`] needs it.
///
/// Needs the feature `incoming`.
///
/// A gateway that forwards HTTP reads it from the body of a `POST`, and answers with it when the call fails:
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use http_body_util::Full;
/// use tower_identity::{AuthError, incoming::McpRequest};
///
/// fn answer(body: &[u8], error: &AuthError) -> Response<Full<Bytes>> {
///     match McpRequest::read(body) {
///         Some(request) => request.answer(error),
///         None => error.to_response(),
///     }
/// }
/// # use tower_identity::AuthErrorKind;
/// # let error = AuthError::new(AuthErrorKind::Expired, "expired");
/// # let call = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#;
/// # assert_eq!(answer(call, &error).status(), 401);
/// ```
///
/// Answer so beneath [`TokenValidatorLayer`](crate::TokenValidatorLayer), which completes the challenge of a refusal with
/// `resource_metadata`. On rmcp's server, `client::rmcp::mcp_error` is the same.
///
/// # The answer
///
/// | the user must | the client | the answer |
/// | --- | --- | --- |
/// | visit a URL, to [agree](crate::Interaction::Consent) or to [link an account](crate::Interaction::LinkAccount) | declares elicitation by URL, up to 2025-11-25 | 200, the error `-32042` with the URL |
/// | visit a URL | declares it with this request, since 2026-07-28 | 200, for `tools/call`, `prompts/get` and `resources/read` a result that asks for it (`input_required`) |
/// | visit a URL | any other | 200, an error whose message says so in words. A 401 would send the client to its own login, which changes nothing, and the SDK for TypeScript then shows no words |
/// | anything else | any | [`AuthError::to_response`]: the status and the challenge. The body is a JSON-RPC error whose message says in words what to do |
///
/// # Security
///
/// The answer shows nothing of the error but the step and its values, which were checked. The URL can be bound to the user
/// whose call failed. The page behind it must check that it is this user who visits it, or serve the user who does, as
/// [`AccountLinking`](crate::AccountLinking) does. The call that is made afterwards is authenticated as any other.
#[derive(Clone, Debug)]
pub struct McpRequest {
    id: Value,
    method: String,
    shows_urls: bool,
    is_stateless: bool,
}

impl McpRequest {
    /// Reads the body of a `POST`. Returns `None` if it is not a JSON-RPC request with an id: for example a notification, an
    /// answer to the server, or no JSON. Then there is nothing that a JSON-RPC error could answer.
    pub fn read(body: &[u8]) -> Option<Self> {
        let mut message: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let Some(Value::String(method)) = message.remove("method") else {
            return None;
        };
        let id = message.remove("id")?;
        if !(id.is_string() || id.is_number()) {
            return None;
        }
        let params = message.get("params");
        let at = |pointer| params.and_then(|params| params.pointer(pointer));
        let of_request = at("/_meta/io.modelcontextprotocol~1clientCapabilities");
        let capabilities = match &*method {
            "initialize" => at("/capabilities"),
            _ => of_request,
        };
        let url = capabilities.and_then(|all| all.pointer("/elicitation/url"));
        Some(Self {
            shows_urls: url.is_some_and(Value::is_object),
            is_stateless: of_request.is_some_and(Value::is_object),
            id,
            method,
        })
    }

    /// Whether the client declares in this message that it can have its user visit a URL (`elicitation.url`).
    ///
    /// Up to the revision of 2025-11-25, a client declares it in `initialize`, and then for the whole session. So keep it
    /// with the session, and tell it to the [later requests](Self::in_session).
    pub fn shows_urls(&self) -> bool {
        self.shows_urls
    }

    /// Tells what the session's `initialize` declared.
    #[must_use]
    pub fn in_session(mut self, shows_urls: bool) -> Self {
        if !self.is_stateless {
            self.shows_urls = shows_urls;
        }
        self
    }

    /// Answers the request with what the user must do. The [table](Self#the-answer) has all cases.
    pub fn answer<B: From<Bytes>>(&self, error: &AuthError) -> Response<B> {
        let message = mcp::message(error);
        let url = mcp::url(error);
        match url.filter(|_| self.shows_urls) {
            Some(url) if self.is_stateless && MAY_ASK.contains(&&*self.method) => {
                let params = json!({ "mode": "url", "message": message, "url": url });
                let request = json!({ "method": "elicitation/create", "params": params });
                let requests = json!({ "interaction": request });
                self.ok(
                    "result",
                    &json!({ "resultType": "input_required", "inputRequests": requests }),
                )
            }
            // A session begins with `initialize`, and before it nothing can be asked.
            Some(url) if !self.is_stateless && self.method != "initialize" => {
                let id = mcp::new_id();
                let elicitation =
                    json!({ "mode": "url", "message": message, "url": url, "elicitationId": id });
                let data = json!({ "elicitations": [elicitation] });
                let code = mcp::URL_ELICITATION_REQUIRED;
                self.ok(
                    "error",
                    &json!({ "code": code, "message": message, "data": data }),
                )
            }
            _ => {
                let words = json!({ "code": mcp::SERVER_ERROR, "message": message });
                if url.is_some() {
                    return self.ok("error", &words);
                }
                let response = error.to_response::<Bytes>();
                response.map(|_| self.body("error", &words))
            }
        }
    }

    fn ok<B: From<Bytes>>(&self, name: &str, outcome: &Value) -> Response<B> {
        let mut response = Response::new(self.body(name, outcome));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn body<B: From<Bytes>>(&self, name: &str, outcome: &Value) -> B {
        let message = json!({ "jsonrpc": "2.0", "id": self.id, name: outcome });
        B::from(Bytes::from(message.to_string()))
    }
}
