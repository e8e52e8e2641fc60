//! A Tower stack as the HTTP client of the MCP Rust SDK (`rmcp`).
//!
//! Needs the feature `rmcp`.
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

mod answer;
mod event_stream;
mod interaction;
mod request;
mod response;
mod resume_points;
mod send_as;
mod session_users;
mod silence;

use std::{collections::HashMap, fmt, future, sync::Arc, time::Duration};

use ::rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
        StreamableHttpResponseLimits,
    },
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use sse_stream::Sse;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Service};

use self::{
    answer::Awaited,
    event_stream::{Call, Events},
    request::RequestParts,
    response::Limits,
    resume_points::{ResumePoint, ResumePoints, Resumption},
    session_users::SessionUsers,
    silence::Patience,
};

pub use self::{
    interaction::{input_required, mcp_error},
    send_as::{SendAs, with_identity},
};
pub use crate::error::TowerHttpError;

/// The SDK's own default.
const DEFAULT_MAX_SSE_EVENT_SIZE: usize = 16 * 1024 * 1024;

const DEFAULT_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// A Tower HTTP service as the HTTP client of an MCP session.
///
/// Needs the feature `rmcp`.
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
/// # Each request ends
///
/// The SDK waits for an answer with the id of its request, and has no time limit. This client ends a request whatever the
/// server answers:
///
/// | the server | the request ends with |
/// | --- | --- |
/// | sends a JSON-RPC error without an id, or with another one | that error, its code and its message |
/// | sends a result with another id, or no answer at all (HTML, a notification) | an error of the SDK |
/// | accepts the request (202) and has no session whose event stream could bring the answer | [`UnexpectedServerResponse`](StreamableHttpError::UnexpectedServerResponse) |
/// | sends no byte for the [`answer_timeout`](Self::answer_timeout) | [`TowerHttpError::NoAnswer`], or in an event stream `TransportClosed` |
/// | sends bytes without the answer for the [`call_timeout`](Self::call_timeout), for example comments or other events | the same |
/// | breaks an event stream off, and does not let it be resumed within the `answer_timeout` | `TransportClosed` |
///
/// Any 2xx accepts a notification, whatever is in it.
///
/// # Limits
///
/// The limits of size are those of the transport's configuration: by default 16 MiB for a JSON response, 64 KiB for an
/// error response, and 16 MiB for one event of an event stream. An event stream is passed on as it arrives.
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
/// | any other except 401, 403 and 429 for a `POST`, with a JSON-RPC error in the body | none: the JSON-RPC error is the server's answer, whatever its id is |
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
#[derive(Clone)]
pub struct TowerHttpClient<S> {
    service: S,
    users: Arc<SessionUsers>,
    resume_points: Arc<ResumePoints>,
    answer_timeout: Duration,
    call_timeout: Duration,
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
            resume_points: Arc::default(),
            answer_timeout: DEFAULT_ANSWER_TIMEOUT,
            call_timeout: DEFAULT_CALL_TIMEOUT,
        }
    }

    /// Sets the longest time in which a server may send nothing of an answer that a request waits for. The default is 5
    /// minutes.
    ///
    /// Each byte starts it anew, for example a comment that keeps the connection alive. The time that the service needs to
    /// obtain a credential counts too. `Duration::MAX` means that there is no limit. The session's own event stream may be
    /// silent for any time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_identity::client::rmcp::TowerHttpClient;
    ///
    /// # let stack = ();
    /// let client = TowerHttpClient::new(stack)
    ///     .answer_timeout(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Sets the longest time that a request waits for its answer, whatever the server sends meanwhile. The default is 1
    /// hour.
    ///
    /// Raise it for servers whose calls report progress for longer. `Duration::MAX` means that there is no limit. A shorter
    /// limit for one call is the SDK's own `PeerRequestOptions::timeout`. The limit does not end a `subscriptions/listen`,
    /// whose events have no end, and not the session's own event stream.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
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
        self.post_message_with_response_limits(
            uri,
            message,
            session_id,
            auth_token,
            custom_headers,
            StreamableHttpResponseLimits::default(),
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
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_sse_event_size = max_sse_event_size;
        self.post_message_with_response_limits(
            uri,
            message,
            session_id,
            auth_token,
            custom_headers,
            limits,
        )
    }

    fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_token: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        limits: StreamableHttpResponseLimits,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send {
        let service = self.service.clone();
        let users = self.users.clone();
        let resume_points = self.resume_points.clone();
        let (silence, in_all) = (self.answer_timeout, self.call_timeout);
        async move {
            let patience = Patience::begin(silence, in_all);
            let request = RequestParts {
                uri: &uri,
                session_id: session_id.as_deref(),
                auth_token,
                custom_headers,
            }
            .post(&message, &users)?;
            let response = patience.within(send(service, request)).await??;
            let has_session = session_id.is_some();
            let events = Events {
                max_event_size: limits.max_sse_event_size,
                resume_point: ResumePoint {
                    session_id,
                    last_event_id: None,
                },
                resume_points,
            };
            let limits = Limits {
                json_size: limits.max_json_response_size,
                error_size: limits.max_error_response_size,
                patience,
            };
            let awaited = Awaited::by(&message);
            response::posted(response, awaited, has_session, limits, events).await
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
        let (silence, in_all) = (self.answer_timeout, self.call_timeout);
        async move {
            let patience = Patience::begin(silence, in_all);
            let request = RequestParts {
                uri: &uri,
                session_id: Some(&session_id),
                auth_token,
                custom_headers,
            }
            .without_body(Method::DELETE)?;
            response::deleted(patience.within(send(service, request)).await??)
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
        let resume_points = self.resume_points.clone();
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
            let resumption = resume_points.take(&resume_point);
            let events = |resume_point| Events {
                max_event_size: max_sse_event_size,
                resume_point,
                resume_points: resume_points.clone(),
            };
            let (give_up_at, patience) = match resumption {
                None => {
                    let response = send(service, request).await?;
                    return response::streamed(response, has_session, None, events(resume_point));
                }
                Some(Resumption::Until(give_up_at, patience)) if give_up_at > Instant::now() => {
                    (give_up_at, patience)
                }
                Some(_) => return Err(StreamableHttpError::ServerDoesNotSupportSse),
            };
            let streamed = async {
                let response = send(service, request).await?;
                let call = Some(Call::resumed(give_up_at, patience));
                let events = events(resume_point.clone());
                response::streamed(response, has_session, call, events)
            };
            let streamed = timeout_at(give_up_at, streamed).await;
            match streamed.unwrap_or(Err(StreamableHttpError::ServerDoesNotSupportSse)) {
                Err(error) if response::is_final(&error) => {
                    Err(StreamableHttpError::ServerDoesNotSupportSse)
                }
                streamed => streamed,
            }
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
