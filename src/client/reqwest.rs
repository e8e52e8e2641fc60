//! [`ReqwestService`]: a [`reqwest::Client`] as the innermost service of a Tower stack.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::Layer;
//! use tower_identity::{
//!     AuthLayer, Origin, UpstreamInject, client::reqwest::ReqwestService,
//! };
//!
//! let http_client = ReqwestService::<Full<Bytes>>::new(reqwest::Client::builder())?;
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let client = AuthLayer::new(origin, UpstreamInject::new("github")?).layer(http_client);
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! This crate turns on none of reqwest's features. For `https`, your own `Cargo.toml` chooses how:
//! `reqwest = { version = "0.13", features = ["rustls"] }`.
//!
//! # What passes through
//!
//! - Bodies stream, both ways. A request body whose exact size is known is sent with its `content-length`. A body that is
//!   not `Sync`, such as axum's, has to become one that is: with reqwest's feature `stream`,
//!   `reqwest::Body::wrap_stream(body.into_data_stream())`.
//! - reqwest reads the extensions of a request for its own settings (the timeout of a `reqwest::Request` that was
//!   converted to an `http::Request`). A response has those of the connection, such as hyper's `HttpInfo`.
//! - reqwest resolves the dot segments of a path (`/a/../b` is sent as `/b`), and adds `accept: */*` where there is no
//!   `accept`.
//! - A response with a status of 400 or above, or with a redirect, is a response, not an error.
//! - An error has no URL: reqwest would show the whole of it, a secret in its query included.
//! - A relative URI is an error for which [`reqwest::Error::is_builder`] is true.
//!
//! # Security
//!
//! reqwest follows redirects by itself, beneath the layers, and takes credentials in headers of their own (`x-api-key`)
//! along to another host. [`ReqwestService::new`] switches that off; what should follow redirects belongs
//! [above](crate::AuthLayer#security) the layers.
//!
//! It does not use the proxies of the environment (`HTTP_PROXY`), either: a request to a plain `http` origin, loopback
//! included, would show its credential to them. Where proxies are meant, name them in the builder.
//!
//! The client's default headers are added beneath the layers, and no layer sees them: no `host` among them. A client with
//! a cookie store keeps the cookies of all its users in one place. Give it none, unless the stack
//! serves one user.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use reqwest::{Client, ClientBuilder, Proxy, Url, redirect};
use sync_wrapper::SyncWrapper;
use tower::{BoxError, Service};

use crate::sent_or_refused::SentOrRefused;

/// A [`reqwest::Client`] as a Tower HTTP service.
///
/// It sends requests with the body `B`: any that is `Send`, `Sync` and convertible to bytes. Where `B` does not follow
/// from how the service is used, say it: `ReqwestService::<Full<Bytes>>::new(…)`.
///
/// Cheap to clone; clones share the connections. See the [module](self) for what passes through.
pub struct ReqwestService<B> {
    client: Client,
    body: PhantomData<fn(B)>,
}

impl<B> ReqwestService<B> {
    /// Builds a client that follows no redirects and does not log what it sends, whatever `builder` says about it, and
    /// that uses no proxies but those of `builder`.
    ///
    /// # Errors
    ///
    /// What [`ClientBuilder::build`] says, when TLS or the resolver cannot be set up.
    pub fn new(builder: ClientBuilder) -> Result<Self, reqwest::Error> {
        let client = builder
            .redirect(redirect::Policy::none())
            .connection_verbose(false)
            // Any proxy of one's own, even this one that is never used, keeps reqwest from looking for others.
            .proxy(Proxy::custom(|_| None::<Url>))
            .build()?;
        Ok(Self::from_client_without_redirects(client))
    }

    /// Takes over a client that was built elsewhere with
    /// [`redirect::Policy::none()`](reqwest::redirect::Policy::none).
    ///
    /// # Security
    ///
    /// That it was built so is not checked, and cannot be: reqwest neither tells a client's policy nor lets a single
    /// request override it. A client with another policy, the default one included, hands credential headers to
    /// whatever host a backend redirects it to.
    pub fn from_client_without_redirects(client: Client) -> Self {
        Self {
            client,
            body: PhantomData,
        }
    }

    /// The client that the requests are sent with.
    pub fn get_ref(&self) -> &Client {
        &self.client
    }

    /// Returns the client that the requests are sent with.
    pub fn into_inner(self) -> Client {
        self.client
    }
}

impl<B> Clone for ReqwestService<B> {
    fn clone(&self) -> Self {
        Self::from_client_without_redirects(self.client.clone())
    }
}

impl<B> fmt::Debug for ReqwestService<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // reqwest shows its default headers.
        f.debug_struct("ReqwestService").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for ReqwestService<B>
where
    B: Body + Send + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| reqwest::Body::wrap(SyncBody::new(body)));
        let state = match reqwest::Request::try_from(request) {
            Ok(request) => SentOrRefused::sent(self.client.call(request)),
            Err(error) => SentOrRefused::refused(error),
        };
        ReqwestFuture { state }
    }
}

pin_project! {
    /// The future of [`ReqwestService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ReqwestFuture {
        #[pin]
        state: SentOrRefused<<Client as Service<reqwest::Request>>::Future, reqwest::Error>,
    }
}

impl Future for ReqwestFuture {
    type Output = Result<Response<reqwest::Body>, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().state.poll_outcome(cx).map(|outcome| {
            outcome
                .and_then(|response| response)
                .map(Response::from)
                .map_err(reqwest::Error::without_url)
        })
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Makes any body `Sync`, as reqwest requires of a body.
    ///
    /// A shared reference does not reach the body inside, so its hints are read ahead.
    struct SyncBody<B> {
        #[pin]
        body: SyncWrapper<B>,
        is_end_stream: bool,
        size_hint: SizeHint,
    }
}

impl<B: Body> SyncBody<B> {
    fn new(body: B) -> Self {
        Self {
            is_end_stream: body.is_end_stream(),
            size_hint: body.size_hint(),
            body: SyncWrapper::new(body),
        }
    }
}

impl<B: Body> Body for SyncBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut body = this.body.get_pin_mut();
        let frame = body.as_mut().poll_frame(cx);
        *this.is_end_stream = body.is_end_stream();
        *this.size_hint = body.size_hint();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
