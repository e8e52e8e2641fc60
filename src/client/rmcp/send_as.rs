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
/// Needs the feature `rmcp`.
///
/// `Peer`, the handle of an MCP session, implements this trait. The value that the SDK's `serve` returns dereferences
/// to it.
///
/// The SDK's `call_tool` sends no identity. It also answers a server that asks for input, and cancels the call when its
/// future is dropped. The methods of this trait do neither.
///
/// ```no_run
/// use rmcp::{RoleClient, ServiceError, model::CallToolRequestParams};
/// use rmcp::service::Peer;
/// use tower_identity::{Identity, client::rmcp::SendAs};
///
/// # async fn search(
/// #     peer: Peer<RoleClient>,
/// #     identity: Identity,
/// # ) -> Result<(), ServiceError> {
/// let search = CallToolRequestParams::new("search");
/// let result = peer.call_tool_as(identity, search).await?;
/// # Ok(())
/// # }
/// ```
pub trait SendAs {
    /// Sends a request as the user of `identity`.
    ///
    /// # Errors
    ///
    /// The errors of `Peer::send_request`. [`AuthError::find_in`](crate::AuthError::find_in) finds out whether
    /// authentication failed.
    fn send_request_as(
        &self,
        identity: Identity,
        request: impl Into<ClientRequest> + Send,
    ) -> impl Future<Output = Result<ServerResult, ServiceError>> + Send;

    /// Calls a tool as the user of `identity`.
    ///
    /// # Errors
    ///
    /// The errors of [`send_request_as`](Self::send_request_as), and `ServiceError::UnexpectedResponse` if the server
    /// does not answer with the tool's result, for example because it asks for input or turns the call into a task.
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

/// Inserts `identity` into the extensions of a request or notification.
///
/// Needs the feature `rmcp`.
///
/// Use it to send a message with one of the SDK's own methods.
///
/// ```no_run
/// use rmcp::{
///     RoleClient, ServiceError,
///     model::{CallToolRequest, CallToolRequestParams},
///     service::{Peer, PeerRequestOptions},
/// };
/// use tower_identity::{Identity, client::rmcp::with_identity};
///
/// # async fn search(
/// #     peer: Peer<RoleClient>,
/// #     identity: Identity,
/// # ) -> Result<(), ServiceError> {
/// let request = CallToolRequest::new(CallToolRequestParams::new("search"));
/// let request = with_identity(request, identity).into();
/// let options = PeerRequestOptions::no_options();
/// let handle = peer.send_cancellable_request(request, options).await?;
/// handle.cancel(Some("the user went away".into())).await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn with_identity<M: GetExtensions>(mut message: M, identity: Identity) -> M {
    message.extensions_mut().insert(identity);
    message
}
