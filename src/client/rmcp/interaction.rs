use ::rmcp::{
    ErrorData,
    model::{
        ClientCapabilities, ElicitRequest, ElicitRequestParams, ErrorCode, InputRequest,
        InputRequests, InputRequiredResult,
    },
};
use serde_json::{Value, json};

use crate::error::{AuthError, mcp};

/// Turns an error into the answer of an MCP server, for example of a gateway that calls other servers.
///
/// Needs the feature `rmcp`.
///
/// | the user must | and the client | error |
/// | --- | --- | --- |
/// | visit a URL, to [agree](crate::Interaction::Consent) or to [link an account](crate::Interaction::LinkAccount) | declares elicitation by URL | `-32042` with the URL in `data.elicitations` |
/// | visit a URL | does not declare it | `-32000`, whose message has the URL |
/// | log in again, grant more scope | | `-32000`, whose message says so |
/// | do nothing | | `-32000`, whose message says whether waiting helps |
///
/// `client` are the capabilities of the client that gets the answer. With rmcp's server,
/// `RequestContext::client_capabilities` has them in all revisions of the protocol.
///
/// A client that speaks HTTP can log in again by itself, if it gets
/// [`AuthError::to_response`](crate::AuthError::to_response) with the challenge of `TokenValidatorLayer`. Answer with this
/// error where the status of the response is already decided, as in a tool of rmcp's server. A gateway that forwards HTTP
/// answers with `incoming::McpRequest`.
///
/// ```
/// use rmcp::model::ClientCapabilities;
/// use tower_identity::{AuthError, AuthErrorKind, client::rmcp::mcp_error};
///
/// let error = AuthError::new(AuthErrorKind::Expired, "the token has expired");
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
    let message = mcp::message(error);
    match elicitation(error, client) {
        Some(params) => {
            let elicitations = json!({ "elicitations": [elicitation_data(&params)] });
            ErrorData::new(
                ErrorCode(mcp::URL_ELICITATION_REQUIRED),
                message,
                Some(elicitations),
            )
        }
        None => ErrorData::new(ErrorCode(mcp::SERVER_ERROR), message, None),
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
    Some(ElicitRequestParams::UrlElicitationParams {
        meta: None,
        message: mcp::message(error),
        elicitation_id: mcp::new_id(),
        url: mcp::url(error)?.to_owned(),
    })
}

fn elicitation_data(params: &ElicitRequestParams) -> Value {
    serde_json::to_value(params).unwrap_or_default()
}
