use std::hash::{BuildHasher, RandomState};

use ::rmcp::{
    ErrorData,
    model::{
        ClientCapabilities, ElicitRequest, ElicitRequestParams, ErrorCode, InputRequest,
        InputRequests, InputRequiredResult,
    },
};
use serde_json::{Value, json};

use crate::error::{AuthError, AuthErrorKind, Interaction};

/// MCP's error for a client that must have its user visit a URL (`URLElicitationRequiredError`).
const URL_ELICITATION_REQUIRED: ErrorCode = ErrorCode(-32042);
/// An error of the server that JSON-RPC does not define (§5.1).
const SERVER_ERROR: ErrorCode = ErrorCode(-32000);

/// Turns an error into the answer of an MCP server, for example of a gateway that calls other servers.
///
/// Needs the feature `rmcp`.
///
/// | the user must | and the client | error |
/// | --- | --- | --- |
/// | visit a URL, to [agree](Interaction::Consent) or to [link an account](Interaction::LinkAccount) | declares elicitation by URL | `-32042` with the URL in `data.elicitations` |
/// | visit a URL | does not declare it | `-32000`, whose message has the URL |
/// | log in again, grant more scope | | `-32000`, whose message says so |
/// | do nothing | | `-32000`, whose message says whether waiting helps |
///
/// `client` are the capabilities of the client that gets the answer. With rmcp's server,
/// `RequestContext::client_capabilities` has them in all revisions of the protocol.
///
/// A client that speaks HTTP can log in again by itself, if it gets
/// [`AuthError::to_response`](crate::AuthError::to_response) with the challenge of `TokenValidatorLayer`. Answer with this
/// error where the status of the response is already decided, as in a tool of rmcp's server.
///
/// ```
/// use rmcp::model::ClientCapabilities;
/// use tower_identity::{AuthError, AuthErrorKind, client::rmcp::mcp_error};
///
/// let error = AuthError::new(AuthErrorKind::Expired, "the token of github has expired");
/// let answer = mcp_error(&error, &ClientCapabilities::default());
/// assert_eq!(answer.message, "log in again, then try again");
/// ```
///
/// # Security
///
/// The answer shows nothing of the error but the step and its values, which were checked. The URL can be bound to the user
/// whose call failed, so send it to their client only. When the user comes back, the next call carries their identity as
/// each call does, and the page of the URL must check that it is this user who visits it, as `AccountLinking` does.
pub fn mcp_error(error: &AuthError, client: &ClientCapabilities) -> ErrorData {
    let message = message(error);
    match elicitation(error, client) {
        Some(params) => {
            let elicitations = json!({ "elicitations": [elicitation_data(&params)] });
            ErrorData::new(URL_ELICITATION_REQUIRED, message, Some(elicitations))
        }
        None => ErrorData::new(SERVER_ERROR, message, None),
    }
}

/// Turns an error into the result of a call that needs input first (multi-round-trip, since 2026-07-28).
///
/// Needs the feature `rmcp`.
///
/// Returns `None` if the user has no URL to visit, or the client does not declare elicitation by URL. Then answer with
/// [`mcp_error`]. The client sends the call again when the user is done. The result carries no state: the second call is
/// authenticated as any other, by the identity that comes with it.
///
/// ```
/// use rmcp::{ErrorData, model::{CallToolResponse, ClientCapabilities}};
/// use tower_identity::{AuthError, client::rmcp::{input_required, mcp_error}};
///
/// /// For a client that speaks 2026-07-28.
/// fn answer(
///     error: &AuthError,
///     client: &ClientCapabilities,
/// ) -> Result<CallToolResponse, ErrorData> {
///     match input_required(error, client) {
///         Some(input) => Ok(input.into()),
///         None => Err(mcp_error(error, client)),
///     }
/// }
/// # let error = AuthError::new(tower_identity::AuthErrorKind::Expired, "");
/// # assert!(answer(&error, &ClientCapabilities::default()).is_err());
/// ```
pub fn input_required(
    error: &AuthError,
    client: &ClientCapabilities,
) -> Option<InputRequiredResult> {
    let request = ElicitRequest::new(elicitation(error, client)?);
    let requests =
        InputRequests::from([("interaction".to_owned(), InputRequest::Elicitation(request))]);
    Some(InputRequiredResult::from_input_requests(requests))
}

fn elicitation(error: &AuthError, client: &ClientCapabilities) -> Option<ElicitRequestParams> {
    client.elicitation.as_ref()?.url.as_ref()?;
    let url = url(error)?.to_owned();
    Some(ElicitRequestParams::UrlElicitationParams {
        meta: None,
        message: message(error),
        elicitation_id: new_id(),
        url,
    })
}

fn elicitation_data(params: &ElicitRequestParams) -> Value {
    serde_json::to_value(params).unwrap_or_default()
}

fn url(error: &AuthError) -> Option<&str> {
    match error.interaction()? {
        Interaction::Consent { url } | Interaction::LinkAccount { url, .. } => url.as_deref(),
        Interaction::Login { .. } | Interaction::GrantScope { .. } => None,
    }
}

/// Says in words what the user can do.
fn message(error: &AuthError) -> String {
    match error.interaction() {
        Some(Interaction::Consent { url: Some(url) }) => {
            format!("agree to the access at {url}, then try again")
        }
        Some(Interaction::Consent { url: None }) => {
            "agree to the access at the next login, or have an administrator agree, then try again"
                .to_owned()
        }
        Some(Interaction::LinkAccount { provider, url }) => match url {
            Some(url) => format!("link your account of `{provider}` at {url}, then try again"),
            None => format!("link your account of `{provider}`, then try again"),
        },
        Some(Interaction::GrantScope { scopes }) => {
            let scopes = scopes.join(" ");
            format!("log in again and grant these scopes, then try again: {scopes}")
        }
        Some(Interaction::Login { .. }) => {
            "log in again in the way that your organization asks for, then try again".to_owned()
        }
        None => of_kind(error.kind()).to_owned(),
    }
}

fn of_kind(kind: AuthErrorKind) -> &'static str {
    match kind {
        AuthErrorKind::MissingIdentity
        | AuthErrorKind::MissingToken
        | AuthErrorKind::Expired
        | AuthErrorKind::Rejected => "log in again, then try again",
        AuthErrorKind::InsufficientScope => "your login does not permit this call",
        AuthErrorKind::Unavailable => {
            "the login cannot be checked at the moment, try again in a while"
        }
        _ => "the server cannot make this call, tell its operator",
    }
}

/// Different for each elicitation. It is no secret.
fn new_id() -> String {
    let [first, second] = [0u8, 1].map(|half| RandomState::new().hash_one(half));
    format!("{first:016x}{second:016x}")
}
