use rmcp::transport::streamable_http_client::StreamableHttpError;
use tower::BoxError;

/// Why a [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient) has no answer of the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TowerHttpError {
    /// The transport's URI, a token or a session id does not make a request.
    #[error("the MCP request cannot be made; check the transport's URI, token and headers")]
    InvalidRequest(#[source] BoxError),
    /// The service failed: a strategy, the connection. [`AuthError::find_in`](crate::AuthError::find_in) tells which.
    ///
    /// It shows itself as what it was, because the SDK's errors show a cause, but do not hand it on as their source.
    #[error(transparent)]
    Send(BoxError),
    /// The body of the response broke off.
    #[error("the body of the MCP response broke off")]
    Body(#[source] BoxError),
    /// An event of an event stream is larger than the transport's configuration allows.
    #[error("the MCP server sent an event of more than {max_size} bytes")]
    EventTooLarge {
        /// The limit, in bytes.
        max_size: usize,
    },
}

impl From<TowerHttpError> for StreamableHttpError<TowerHttpError> {
    fn from(error: TowerHttpError) -> Self {
        Self::Client(error)
    }
}
