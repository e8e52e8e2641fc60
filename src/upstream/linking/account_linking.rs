use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, Uri};
use http_body_util::Full;
use tower::Service;

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    oauth::http_client::BoxFuture,
    runtime::spawn,
    upstream::{TokenOwner, upstream_tokens::UpstreamTokens},
};

use super::{
    browser::{check_form, check_visit, guarded, is_local_path, redirect},
    builder::AccountLinkingBuilder,
    client_metadata::ClientMetadataBuilder,
    code_flow::CodeFlow,
    link_error::{LinkError, LinkErrorKind},
    routes::{self, Route},
};

/// A Tower service that links users' accounts at other providers, for a browser.
///
/// Needs the feature `linking`.
///
/// It sends the user to the provider (authorization code with PKCE), takes the tokens that
/// the provider issues, and keeps them in [`UpstreamTokens`] for the user who started.
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{
///     AccountLinking, ClientAuth, MemoryStore, Secret, UpstreamTokens,
///     upstream::{OAuthProvider, ProviderSettings},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let client_auth = ClientAuth::post("Iv1.8a61f9b3a7aba766", secret);
/// let settings = ProviderSettings::github();
/// let github = OAuthProvider::builder(settings, client_auth, client).build()?;
///
/// let provider = github.provider("github").optional().build()?;
/// let upstream = UpstreamTokens::new(MemoryStore::new(), [provider]);
/// let linking =
///     AccountLinking::builder("https://gateway.example.com/accounts", upstream)
///         .build()?;
/// assert_eq!(
///     linking.redirect_uri("github"),
///     Some("https://gateway.example.com/accounts/link/callback/github")
/// );
///
/// // Beneath a layer that puts the user's `Identity` on each request.
/// let app = axum::Router::<()>::new().nest_service("/accounts", linking);
/// # Ok(())
/// # }
/// ```
///
/// # Pages
///
/// | request | response |
/// | --- | --- |
/// | `GET /link/{provider}` | a redirect to the provider |
/// | `GET /link/callback/{provider}` | the tokens are stored, and a redirect to the page where the user came from. It is the redirect URI: register it at the provider |
/// | `POST /unlink/{provider}` | the tokens are removed, and the same redirect |
///
/// The query parameter `return_to` of the first and the last names the page, a path on this
/// host. By default it is the service's own path, see
/// [`return_to`](AccountLinkingBuilder::return_to).
///
/// If something goes wrong, the response is a small page that says what to do. A function
/// can [replace it](AccountLinkingBuilder::error_page). The service has no other pages.
///
/// # The user
///
/// Each request must have the user in its extensions: a [`TokenOwner`], or an
/// [`Identity`], which stands for the user or, with
/// [`session_claim`](UpstreamTokens::session_claim), for the session that it names. A layer
/// of your application puts it there, for example from a session cookie.
///
/// # Several replicas
///
/// The state of a link travels with the browser, sealed with the
/// [keys of the store](crate::UpstreamTokenStore::sealing_keys). A replica can finish what
/// another one began, if both have the same keys. The store notes that a redirect was
/// used, so that it is accepted once.
///
/// # Security
///
/// - Tokens are stored for the user who started, and only if the same user comes back with
///   the same browser. The address of a link names no user: whoever opens it links their
///   own account.
/// - Each provider has its own redirect URI, so that a response of one is not taken for
///   one of another (RFC 9700 §4.4). `iss` (RFC 9207) is checked, too.
/// - The [threat model](crate::guide::security#linking-accounts) lists the attacks, and the
///   test for each.
#[derive(Clone)]
pub struct AccountLinking {
    inner: Arc<Inner>,
}

/// The settings, as the builder has checked them.
pub(super) struct Inner {
    pub(super) origin: String,
    pub(super) prefix: String,
    pub(super) return_to: String,
    pub(super) upstream: UpstreamTokens,
    pub(super) flows: BTreeMap<String, CodeFlow>,
    pub(super) error_page: Option<Arc<ErrorPage>>,
}

pub(super) type ErrorPage = dyn Fn(&LinkError) -> Response<Full<Bytes>> + Send + Sync;

impl AccountLinking {
    pub(super) fn of(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Starts a service that links the accounts of the providers in `upstream` that an
    /// [`OAuthProvider`](crate::upstream::OAuthProvider) made.
    ///
    /// `url` is where browsers find the service, for example `https://gateway.example.com/accounts`.
    pub fn builder(url: impl Into<String>, upstream: UpstreamTokens) -> AccountLinkingBuilder {
        AccountLinkingBuilder::new(url.into(), upstream)
    }

    /// The redirect URI to register at this provider.
    pub fn redirect_uri(&self, provider: &str) -> Option<&str> {
        self.inner.flows.get(provider).map(CodeFlow::redirect_uri)
    }

    /// The tokens that the service keeps, with the pages of this service in their errors.
    ///
    /// Give them to a [`TokenValidator`](crate::TokenValidator). An error for a missing token, or for one that needs a
    /// login, then has the page where the user links the account:
    /// [`Interaction::LinkAccount`](crate::Interaction::LinkAccount).
    pub fn upstream_tokens(&self) -> UpstreamTokens {
        let providers = self.inner.flows.keys();
        let links = providers.map(|name| (name.clone(), self.inner.page("link", name)));
        self.inner.upstream.with_links(links.collect())
    }

    /// Starts the document by which providers know this application, if its `client_id` there is a URL (Client ID Metadata
    /// Documents) and it is a [public client](crate::ClientAuth::none) or has a
    /// [key](crate::ClientAuth::private_key_jwt).
    ///
    /// No registration is needed at such a provider: its metadata has `client_id_metadata_document_supported`. The document
    /// lists the redirect URIs of all providers that have this client's ID, and the public part of the client's key. `name`
    /// is shown to users who are asked to agree.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::{
    ///     AccountLinking, ClientAuth, MemoryStore, UpstreamTokens,
    ///     upstream::{OAuthProvider, ProviderSettings},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    /// let id = "https://gateway.example.com/client.json";
    /// let issuer = "https://login.tracker.example.com";
    /// let settings = ProviderSettings::discovered(issuer);
    /// let tracker =
    ///     OAuthProvider::builder(settings, ClientAuth::none(id), client).build()?;
    /// let tracker = tracker.provider("tracker").build()?;
    /// let upstream = UpstreamTokens::new(MemoryStore::new(), [tracker]);
    /// let linking =
    ///     AccountLinking::builder("https://gateway.example.com", upstream).build()?;
    ///
    /// let document = linking.client_metadata(id, "Example gateway").build()?;
    /// let app = axum::Router::<()>::new()
    ///     .route_service("/client.json", document)
    ///     .fallback_service(linking);
    /// # Ok(())
    /// # }
    /// ```
    ///
    pub fn client_metadata(&self, client_id: &str, name: &str) -> ClientMetadataBuilder {
        let mut builder = ClientMetadataBuilder::new(client_id, name);
        for flow in self.inner.flows.values() {
            if flow.client_id() == client_id {
                builder.add(flow.redirect_uri(), flow.client_auth());
            }
        }
        builder
    }

    /// The URL where a user can link an account of this provider.
    pub fn link_url(&self, provider: &str) -> Option<String> {
        let inner = &self.inner;
        let is_known = inner.flows.contains_key(provider);
        is_known.then(|| inner.page("link", provider))
    }
}

impl Inner {
    async fn answer(
        self: &Arc<Self>,
        request: Request<()>,
    ) -> Result<Response<Full<Bytes>>, LinkError> {
        let (head, ()) = request.into_parts();
        match routes::find(&head.method, head.uri.path(), &self.prefix) {
            Route::Start(name) => {
                let flow = self.flow(name)?;
                self.start(flow, &head.uri, &head.headers, &head.extensions)
                    .await
                    .map_err(|error| self.told_to_retry(error, name, &head.uri))
            }
            Route::Callback(name) => {
                let flow = self.flow(name)?;
                self.finish(name, flow, &head.uri, &head.headers, &head.extensions)
                    .await
                    .map_err(|error| self.told_to_retry(error, name, &head.uri))
            }
            Route::Unlink(name) => {
                self.flow(name)?;
                self.unlink(name, &head.uri, &head.headers, &head.extensions)
                    .await
                    .map_err(|error| self.told(error, name, &head.uri))
            }
            Route::WrongMethod => Err(LinkErrorKind::Method.into()),
            Route::NotFound => Err(LinkErrorKind::NotFound.into()),
        }
    }

    async fn start(
        &self,
        flow: &CodeFlow,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Response<Full<Bytes>>, LinkError> {
        check_visit(headers)?;
        let user = self.user(extensions)?;
        let return_to = self.return_to(uri);
        flow.start(headers, Some(&user), &return_to).await
    }

    /// The work goes on when the browser goes away, because the code can be exchanged only once.
    async fn finish(
        self: &Arc<Self>,
        name: &str,
        flow: &CodeFlow,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Response<Full<Bytes>>, LinkError> {
        let user = self.user(extensions)?;
        let finishing = flow.finish(uri, headers, Some(&user));
        let (inner, name) = (Arc::clone(self), name.to_owned());
        let finished = spawn(async move {
            let finished = finishing.await?;
            let store = inner.upstream.store();
            store.put(&user, &name, finished.tokens()).await?;
            tracing::debug!(provider = name, "an account was linked");
            Ok::<_, LinkError>(finished)
        });
        let finished = finished.await.map_err(|_| panicked())??;
        self.to(finished.return_to())
    }

    async fn unlink(
        &self,
        name: &str,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Response<Full<Bytes>>, LinkError> {
        check_form(headers, &self.origin)?;
        let user = self.user(extensions)?;
        self.upstream.store().remove_provider(&user, name).await?;
        tracing::debug!(provider = name, "an account was unlinked");
        self.to(&self.return_to(uri))
    }

    fn flow(&self, name: &str) -> Result<&CodeFlow, LinkError> {
        let flow = self.flows.get(name);
        flow.ok_or_else(|| LinkErrorKind::NotFound.into())
    }

    fn user(&self, extensions: &Extensions) -> Result<TokenOwner, LinkError> {
        if let Some(owner) = extensions.get::<TokenOwner>() {
            return Ok(owner.clone());
        }
        let identity = extensions.get::<Identity>();
        let identity = identity.ok_or(LinkErrorKind::NotLoggedIn)?;
        let owner = TokenOwner::of_upstream(identity, self.upstream.claim_of_session());
        owner.map_err(|_| LinkErrorKind::NotLoggedIn.into())
    }

    fn return_to(&self, uri: &Uri) -> String {
        let query = uri.query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let asked = pairs.find(|(name, _)| name == "return_to");
        let asked = asked.filter(|(_, path)| is_local_path(path));
        asked.map_or_else(|| self.return_to.clone(), |(_, path)| path.into_owned())
    }

    /// Sends the browser to a path of this host. The URL is whole, so that no path can be read as another host.
    fn to(&self, path: &str) -> Result<Response<Full<Bytes>>, LinkError> {
        let response = redirect(&format!("{}{path}", self.origin));
        response.ok_or_else(|| LinkErrorKind::Malformed.into())
    }

    fn page(&self, page: &str, provider: &str) -> String {
        format!("{}{}/{page}/{provider}", self.origin, self.prefix)
    }

    /// Adds the URL where the user can start the link again. It ends on the page where this one began.
    fn told_to_retry(&self, error: LinkError, provider: &str, uri: &Uri) -> LinkError {
        let mut retry_url = self.page("link", provider);
        let return_to = self.came_from(&error, uri);
        if return_to != self.return_to {
            let query: String = form_urlencoded::byte_serialize(return_to.as_bytes()).collect();
            retry_url = format!("{retry_url}?return_to={query}");
        }
        self.told(error, provider, uri).with_retry_url(retry_url)
    }

    fn told(&self, error: LinkError, provider: &str, uri: &Uri) -> LinkError {
        let return_url = format!("{}{}", self.origin, self.came_from(&error, uri));
        error.of(provider).returning_to(&return_url)
    }

    /// The path where the user came from: as the state of the link has it, or the request.
    fn came_from(&self, error: &LinkError, uri: &Uri) -> String {
        let known = error.return_url().map(str::to_owned);
        known.unwrap_or_else(|| self.return_to(uri))
    }

    fn error_page(&self, error: &LinkError) -> Response<Full<Bytes>> {
        match &self.error_page {
            Some(page) => page(error),
            None => error.page(),
        }
    }
}

/// Logs an error. One that concerns the operator is a warning.
#[cold]
fn log(error: &LinkError) {
    const MESSAGE: &str = "a request to link an account failed";

    let (kind, source) = (error.kind(), error.auth_error());
    let source = source.map(AuthError::in_event);
    match kind {
        LinkErrorKind::Configuration => tracing::warn!(?kind, %error, source, "{MESSAGE}"),
        _ => tracing::debug!(?kind, %error, source, "{MESSAGE}"),
    }
}

#[cold]
fn panicked() -> AuthError {
    let fault = "the store of upstream tokens, or the client for the provider, panicked";
    AuthError::new(AuthErrorKind::Unavailable, fault)
}

impl<B> Service<Request<B>> for AccountLinking {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = LinkingFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> LinkingFuture {
        let inner = Arc::clone(&self.inner);
        let request = request.map(drop);
        LinkingFuture {
            future: Box::pin(async move {
                let answer = inner.answer(request).await.unwrap_or_else(|error| {
                    log(&error);
                    inner.error_page(&error)
                });
                guarded(answer)
            }),
        }
    }
}

impl fmt::Debug for AccountLinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountLinking")
            .field("origin", &self.inner.origin)
            .field("prefix", &self.inner.prefix)
            .field("providers", &self.inner.flows.keys())
            .finish_non_exhaustive()
    }
}

/// The future of [`AccountLinking`].
///
/// Needs the feature `linking`.
///
/// Dropping it, as a server does when the browser goes away, does not end a link whose code is being exchanged.
#[must_use = "futures do nothing unless polled"]
pub struct LinkingFuture {
    future: BoxFuture<Response<Full<Bytes>>>,
}

impl Future for LinkingFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for LinkingFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkingFuture").finish_non_exhaustive()
    }
}
