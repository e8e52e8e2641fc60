//! A Tower stack as the HTTP client of the MCP Rust SDK ([`rmcp`]).
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use rmcp::{
//!     ServiceExt,
//!     model::CallToolRequestParams,
//!     transport::{
//!         StreamableHttpClientTransport,
//!         streamable_http_client::StreamableHttpClientTransportConfig,
//!     },
//! };
//! use tower::ServiceBuilder;
//! use tower_identity::{
//!     AuthLayer, Identity, IdentityLayer, Origin, UpstreamInject,
//!     client::rmcp::{SendAs, TowerHttpClient},
//! };
//!
//! # async fn session(
//! #     session_identity: Identity,
//! #     identity: Identity,
//! # ) -> Result<(), tower::BoxError> {
//! let http_client = Client::builder(TokioExecutor::new())
//!     .build_http::<Full<Bytes>>();
//! let origin = Origin::try_from("http://127.0.0.1:8000")?;
//! let stack = ServiceBuilder::new()
//!     .layer(IdentityLayer::new(session_identity).follow_requests())
//!     .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!     .service(http_client);
//! let transport = StreamableHttpClientTransport::with_client(
//!     TowerHttpClient::new(stack),
//!     StreamableHttpClientTransportConfig::with_uri("http://127.0.0.1:8000/mcp"),
//! );
//!
//! let client = ().serve(transport).await?;
//! let search = CallToolRequestParams::new("search");
//! let result = client.call_tool_as(identity, search).await?;
//! # Ok(())
//! # }
//! ```

mod event_stream;
mod request;
mod response;
mod send_as;
mod session_users;
mod unresumable_points;

use std::{collections::HashMap, fmt, future, sync::Arc};

use ::rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use sse_stream::Sse;
use tower::{BoxError, Service};

use self::{
    event_stream::Events,
    request::RequestParts,
    session_users::SessionUsers,
    unresumable_points::{ResumePoint, UnresumablePoints},
};

pub use self::send_as::{SendAs, with_identity};
pub use crate::error::TowerHttpError;

/// The SDK's own default.
const DEFAULT_MAX_SSE_EVENT_SIZE: usize = 16 * 1024 * 1024;

/// A Tower HTTP service as the HTTP client of an MCP session.
///
/// # Whose identity a request carries
///
/// | the SDK sends | identity |
/// | --- | --- |
/// | a request or notification with an [`Identity`] in its extensions (see [`SendAs`] and [`with_identity`]) | that one |
/// | a replay of `initialize` with an [`Identity`], after the server lost the session | the newest one of the same user that the client has sent |
/// | anything else: its own handshake, the event stream (`GET`) and its reconnects, answers to the server, a cancellation, the `DELETE` | none, so [`IdentityLayer`] inserts the session's |
///
/// [`HealthCheck`] and [`CapturedHeaders`] in a message's extensions are handled the same way. The SDK's own helpers, for
/// example `call_tool` and `list_tools`, send no extensions, so their requests fall under the last row.
///
/// The last row needs [`FallbackPolicy::always`], which is the default. With a narrower policy the handshake carries no
/// identity. Let the session [follow](crate::IdentityLayer::follow_requests) its requests, because most requests of the last
/// row are sent long after login. For example, the SDK does not open an event stream again that was refused because of
/// an expired token.
///
/// # One client for each session
///
/// The clones of a client share the newest identity of each user whose `initialize` they sent, so that a replay does not
/// use an old one. The client never uses one user's identity for another. It keeps the identities of the 64 users who
/// opened a session last, so do not share a client among more users.
///
/// # Limits
///
/// The limits are those of the SDK's own clients: 16 MiB for a JSON response, 64 KiB for an error response and
/// [`max_sse_event_size`] for one event of an event stream. An event stream is passed on as it arrives. The client has no
/// time limit. Add a timeout layer to the stack if you need one.
///
/// The client ends an event stream at an event that is too large. It answers the SDK's attempt to resume the stream there
/// with [`ServerDoesNotSupportSse`](StreamableHttpError::ServerDoesNotSupportSse), so that the SDK does not retry without
/// end.
///
/// # Errors
///
/// A response with an error status becomes an error of the SDK:
///
/// | status | error |
/// | --- | --- |
/// | 401 with a challenge | [`AuthRequired`](StreamableHttpError::AuthRequired) |
/// | 403 with a challenge | [`InsufficientScope`](StreamableHttpError::InsufficientScope) with the challenge's scope |
/// | 404 for a request of a session | [`SessionExpired`](StreamableHttpError::SessionExpired) |
/// | 405 for a `GET` | [`ServerDoesNotSupportSse`](StreamableHttpError::ServerDoesNotSupportSse) |
/// | 405 for a `DELETE` | [`ServerDoesNotSupportDeleteSession`](StreamableHttpError::ServerDoesNotSupportDeleteSession) |
/// | any other except 401, 403 and 429 for a `POST`, with a JSON-RPC error in the body | none: the JSON-RPC error is the server's answer |
/// | any other, including 401 and 403 without a readable challenge | [`HttpStatus`](StreamableHttpError::HttpStatus) |
///
/// If the stack fails, for example a strategy or the connection, the error is a [`TowerHttpError`].
/// [`AuthError::find_in`](crate::AuthError::find_in) finds an `AuthError` in it and in the SDK's errors.
///
/// [`CapturedHeaders`]: crate::CapturedHeaders
/// [`FallbackPolicy::always`]: crate::FallbackPolicy::always
/// [`HealthCheck`]: crate::HealthCheck
/// [`Identity`]: crate::Identity
/// [`IdentityLayer`]: crate::IdentityLayer
/// [`max_sse_event_size`]: ::rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig::max_sse_event_size
#[derive(Clone)]
pub struct TowerHttpClient<S> {
    service: S,
    users: Arc<SessionUsers>,
    unresumable: Arc<UnresumablePoints>,
}

impl<S> TowerHttpClient<S> {
    /// Creates a client that sends its requests through `service`.
    ///
    /// `service` is for example an HTTP client beneath an [`IdentityLayer`](crate::IdentityLayer) and an
    /// [`AuthLayer`](crate::AuthLayer).
    pub fn new(service: S) -> Self {
        Self {
            service,
            users: Arc::default(),
            unresumable: Arc::default(),
        }
    }

    /// The service that sends the requests.
    pub fn get_ref(&self) -> &S {
        &self.service
    }

    /// The service that sends the requests, mutably. Clones of this client keep theirs.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// Returns the service and drops this client.
    pub fn into_inner(self) -> S {
        self.service
    }
}

impl<S, B> StreamableHttpClient for TowerHttpClient<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Error = TowerHttpError;

    fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send {
        self.post_message_with_max_sse_event_size(
            uri,
            message,
            session_id,
            auth_token,
            custom_headers,
            DEFAULT_MAX_SSE_EVENT_SIZE,
        )
    }

    fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        max_sse_event_size: usize,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send {
        let service = self.service.clone();
        let users = self.users.clone();
        let unresumable = self.unresumable.clone();
        async move {
            let request = RequestParts {
                uri: &uri,
                session_id: session_id.as_deref(),
                auth_token,
                custom_headers,
            }
            .post(&message, &users)?;
            let response = send(service, request).await?;
            let has_session = session_id.is_some();
            let events = Events {
                max_event_size: max_sse_event_size,
                resumable_at_start: false,
                resume_point: ResumePoint {
                    session_id,
                    last_event_id: None,
                },
                unresumable,
            };
            response::posted(response, &message, has_session, events).await
        }
    }

    fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> impl Future<Output = Result<()>> + Send {
        let service = self.service.clone();
        async move {
            let request = RequestParts {
                uri: &uri,
                session_id: Some(&session_id),
                auth_token,
                custom_headers,
            }
            .without_body(Method::DELETE)?;
            response::deleted(send(service, request).await?)
        }
    }

    fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Sse, SseError>>>> + Send {
        self.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            auth_token,
            custom_headers,
            DEFAULT_MAX_SSE_EVENT_SIZE,
        )
    }

    fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        max_sse_event_size: usize,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Sse, SseError>>>> + Send {
        let service = self.service.clone();
        let unresumable = self.unresumable.clone();
        async move {
            let has_session = session_id.is_some();
            let request = RequestParts {
                uri: &uri,
                session_id: session_id.as_deref(),
                auth_token,
                custom_headers,
            }
            .event_stream(last_event_id.as_deref())?;
            let resume_point = ResumePoint {
                session_id,
                last_event_id,
            };
            if unresumable.take(&resume_point) {
                return Err(StreamableHttpError::ServerDoesNotSupportSse);
            }
            let events = Events {
                max_event_size: max_sse_event_size,
                resumable_at_start: true,
                resume_point,
                unresumable,
            };
            response::streamed(send(service, request).await?, has_session, events)
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TowerHttpClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerHttpClient")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

type Result<T, E = StreamableHttpError<TowerHttpError>> = std::result::Result<T, E>;

async fn send<S, B>(
    mut service: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<B>, TowerHttpError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let sent = async {
        future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    };
    sent.await
        .map_err(|error| TowerHttpError::Send(error.into()))
}
