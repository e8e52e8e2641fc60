//! [`TowerHttpClient`]: a Tower stack as the HTTP client of the MCP Rust SDK ([`rmcp`]).
//!
//! ```no_run
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use rmcp::{ServiceExt, model::CallToolRequestParams};
//! use rmcp::transport::{
//!     StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
//! };
//! use tower::ServiceBuilder;
//! use tower_identity::client::rmcp::{SendAs, TowerHttpClient};
//! use tower_identity::{AuthLayer, Identity, IdentityLayer, Origin, UpstreamInject};
//!
//! # async fn session(session_identity: Identity, identity: Identity) -> Result<(), tower::BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(IdentityLayer::new(session_identity).follow_requests())
//!     .layer(AuthLayer::new(Origin::try_from("http://127.0.0.1:8000")?, UpstreamInject::new("github")?))
//!     .service(Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>());
//! let config = StreamableHttpClientTransportConfig::with_uri("http://127.0.0.1:8000/mcp");
//! let transport = StreamableHttpClientTransport::with_client(TowerHttpClient::new(stack), config);
//!
//! let client = ().serve(transport).await?;
//! let result = client.call_tool_as(identity, CallToolRequestParams::new("search")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Whose identity goes where
//!
//! | the SDK sends | identity |
//! | --- | --- |
//! | a request or notification with an [`Identity`] in its extensions ([`SendAs`], [`with_identity`]) | that one |
//! | a replay of `initialize`, after the server lost the session | the newest that was seen of the message's user |
//! | anything else: its own handshake, the event stream (`GET`) and its reconnects, answers to the server, a cancellation, the `DELETE` | none: [`IdentityLayer`] falls back to the session's |
//!
//! [`HealthCheck`] and [`CapturedHeaders`] in a message's extensions go the same way. The SDK's own typed helpers
//! (`call_tool`, `list_tools`) send no extensions, so their requests fall under the last row.
//!
//! The last row needs [`FallbackPolicy::always`], the default: with a narrower policy the handshake goes out without a
//! user. Most of it is sent long after log-in, so let the session [follow](crate::IdentityLayer::follow_requests) its requests:
//! an event stream that is refused for a stale token is not opened again.
//!
//! # What is bounded
//!
//! The same as in the SDK's own clients: 16 MiB for a JSON response, 64 KiB for an error's, and for one event of an event
//! stream what [`max_sse_event_size`] says. An event stream is passed on as it arrives. Time is not bounded here: a
//! timeout is a layer's business.
//!
//! A stream ends at an event that is too large, and is not resumed there: the reconnect that the SDK tries at once is
//! answered with [`ServerDoesNotSupportSse`](StreamableHttpError::ServerDoesNotSupportSse), which makes it give up.
//!
//! # Refusals
//!
//! | status | error |
//! | --- | --- |
//! | 401 with a challenge | [`AuthRequired`](StreamableHttpError::AuthRequired) |
//! | 403 with a challenge | [`InsufficientScope`](StreamableHttpError::InsufficientScope), with the challenge's scope |
//! | 404 on a session | [`SessionExpired`](StreamableHttpError::SessionExpired) |
//! | 405 on `GET`, on `DELETE` | [`ServerDoesNotSupportSse`](StreamableHttpError::ServerDoesNotSupportSse), [`ServerDoesNotSupportDeleteSession`](StreamableHttpError::ServerDoesNotSupportDeleteSession) |
//! | to a `POST`, any other but 401, 403 and 429, with a JSON-RPC error | that error, as the server's answer |
//! | any other, 401 and 403 without a challenge that can be read included | [`HttpStatus`](StreamableHttpError::HttpStatus) |
//!
//! What fails beneath (a strategy, the connection) is a [`TowerHttpError`];
//! [`AuthError::find_in`](crate::AuthError::find_in) finds an `AuthError` in it and in what the SDK wraps around it.
//!
//! [`CapturedHeaders`]: crate::CapturedHeaders
//! [`FallbackPolicy::always`]: crate::FallbackPolicy::always
//! [`HealthCheck`]: crate::HealthCheck
//! [`Identity`]: crate::Identity
//! [`IdentityLayer`]: crate::IdentityLayer
//! [`max_sse_event_size`]: ::rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig::max_sse_event_size

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

/// What the SDK uses where it is not told.
const DEFAULT_MAX_SSE_EVENT_SIZE: usize = 16 * 1024 * 1024;

/// A Tower HTTP service as the HTTP client of an MCP session.
///
/// See the [module](self) for what it sends and what it answers.
///
/// # One client for each session
///
/// Its clones remember, together, the newest identity of each user that sent an `initialize` with an identity, so that
/// a replay of it does not bring the old one back. They never use one user's identity for another. They remember the
/// last 64 users: more than that should not share a client.
#[derive(Clone)]
pub struct TowerHttpClient<S> {
    service: S,
    users: Arc<SessionUsers>,
    unresumable: Arc<UnresumablePoints>,
}

impl<S> TowerHttpClient<S> {
    /// A client that sends through `service`, for example an HTTP client beneath an
    /// [`IdentityLayer`](crate::IdentityLayer) and an [`AuthLayer`](crate::AuthLayer).
    pub fn new(service: S) -> Self {
        Self {
            service,
            users: Arc::default(),
            unresumable: Arc::default(),
        }
    }

    /// The service that the requests are sent through.
    pub fn get_ref(&self) -> &S {
        &self.service
    }

    /// The service that the requests are sent through, mutably. Clones of this
    /// client keep theirs.
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
