use ::rmcp::{
    RoleClient, ServiceError,
    model::{
        CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, GetExtensions,
        ServerResult,
    },
    service::Peer,
};

use crate::identity::Identity;

/// Sends the requests of an MCP session on behalf of a user.
///
/// An MCP session is a [`Peer`], and so is what `serve` returns.
///
/// The SDK's `call_tool` carries no identity. These do; the rest of what `call_tool` does on top (it answers a server
/// that asks for input, and cancels the call when its future is dropped) they leave to you.
pub trait SendAs {
    /// Sends any request, as the user of `identity`.
    ///
    /// # Errors
    ///
    /// As [`Peer::send_request`]. [`AuthError::find_in`](crate::AuthError::find_in) tells whether authentication
    /// failed.
    fn send_request_as(
        &self,
        identity: Identity,
        request: impl Into<ClientRequest> + Send,
    ) -> impl Future<Output = Result<ServerResult, ServiceError>> + Send;

    /// Calls a tool, as the user of `identity`.
    ///
    /// # Errors
    ///
    /// As [`send_request_as`](Self::send_request_as), and [`ServiceError::UnexpectedResponse`] when the server does not
    /// answer with the tool's result, but asks for input or makes a task of the call.
    fn call_tool_as(
        &self,
        identity: Identity,
        params: CallToolRequestParams,
    ) -> impl Future<Output = Result<CallToolResult, ServiceError>> + Send;
}

impl SendAs for Peer<RoleClient> {
    async fn send_request_as(
        &self,
        identity: Identity,
        request: impl Into<ClientRequest> + Send,
    ) -> Result<ServerResult, ServiceError> {
        let request = with_identity(request.into(), identity);
        self.send_request(request).await
    }

    async fn call_tool_as(
        &self,
        identity: Identity,
        params: CallToolRequestParams,
    ) -> Result<CallToolResult, ServiceError> {
        let request = CallToolRequest::new(params);
        match self.send_request_as(identity, request).await? {
            ServerResult::CallToolResult(result) => Ok(result),
            _ => Err(ServiceError::UnexpectedResponse),
        }
    }
}

/// Puts `identity` on a request or a notification, to be sent in the SDK's own way.
///
/// ```no_run
/// use rmcp::{RoleClient, ServiceError, model::{CallToolRequest, CallToolRequestParams}};
/// use rmcp::service::{Peer, PeerRequestOptions};
/// use tower_identity::{Identity, client::rmcp::with_identity};
///
/// # async fn search(peer: Peer<RoleClient>, identity: Identity) -> Result<(), ServiceError> {
/// let request = CallToolRequest::new(CallToolRequestParams::new("search"));
/// let handle = peer
///     .send_cancellable_request(with_identity(request, identity).into(), PeerRequestOptions::no_options())
///     .await?;
/// handle.cancel(Some("the user went away".into())).await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn with_identity<M: GetExtensions>(mut message: M, identity: Identity) -> M {
    message.extensions_mut().insert(identity);
    message
}
