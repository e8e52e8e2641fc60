use std::time::Duration;

use rmcp::transport::streamable_http_client::StreamableHttpError;
use tower::BoxError;

/// The error of a [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient) whose request got no answer of the server.
///
/// Needs the feature `rmcp`.
///
/// ```
/// use tower_identity::{AuthError, client::rmcp::TowerHttpError};
///
/// fn failed_to_authenticate(error: &TowerHttpError) -> bool {
///     AuthError::find_in(error).is_some()
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TowerHttpError {
    /// The transport's URI, a token or a session id is not valid in an HTTP request.
    #[error("the MCP request cannot be made; check the transport's URI, token and headers")]
    InvalidRequest(#[source] BoxError),
    /// The service failed, for example a strategy or the connection.
    ///
    /// [`AuthError::find_in`](crate::AuthError::find_in) finds out which. `Display` shows the service's error, because
    /// the SDK's errors display their cause but do not return it as their source.
    #[error(transparent)]
    Send(BoxError),
    /// The connection failed while the body of a response arrived.
    #[error("the body of the MCP response broke off")]
    Body(#[source] BoxError),
    /// The server sent nothing for the time of
    /// [`answer_timeout`](crate::client::rmcp::TowerHttpClient::answer_timeout), or no answer for that of
    /// [`call_timeout`](crate::client::rmcp::TowerHttpClient::call_timeout).
    #[error("the MCP server sent no answer for {after:?}")]
    NoAnswer {
        /// The time.
        after: Duration,
    },
    /// An event of an event stream exceeds the limit of the transport's configuration.
    #[error("the MCP server sent an event of more than {max_size} bytes")]
    EventTooLarge {
        /// The limit in bytes.
        max_size: usize,
    },
}

impl From<TowerHttpError> for StreamableHttpError<TowerHttpError> {
    fn from(error: TowerHttpError) -> Self {
        Self::Client(error)
    }
}
