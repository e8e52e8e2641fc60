use std::{
    borrow::Cow,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};

use crate::{
    error::{AuthError, AuthErrorKind},
    inner_service_accessors::inner_service_accessors,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    secret::secret_header_value,
    sent_or_refused::SentOrRefused,
};

/// Adds headers that a backend wants besides the credential.
///
/// A header is either static, the same on every request, or captured from the incoming request that a gateway serves.
///
/// ```
/// use http::{HeaderMap, HeaderValue, Request};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_identity::{HeaderForwardLayer, Origin};
///
/// # futures_util::FutureExt::now_or_never(async {
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let forward = HeaderForwardLayer::builder(origin)
///     .header("x-api-version", "2")
///     .capture("x-tenant")
///     .build()?;
/// let backend = service_fn(async |request: Request<()>| {
///     Ok::<_, tower::BoxError>(request.headers().clone())
/// });
/// let mut client = forward.layer(backend);
///
/// let mut incoming = HeaderMap::new();
/// incoming.insert("x-tenant", HeaderValue::from_static("blue"));
/// incoming.insert("cookie", HeaderValue::from_static("session=1"));
///
/// let mut request = Request::post("https://mcp.example.com/mcp").body(())?;
/// request.extensions_mut().insert(forward.captured(&incoming));
/// let sent = client.ready().await?.call(request).await?;
/// assert_eq!(sent["x-api-version"], "2");
/// assert_eq!(sent["x-tenant"], "blue");
/// assert!(!sent.contains_key("cookie"));
/// # Ok::<(), tower::BoxError>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Precedence
///
/// 1. The layer never changes a header that the request already has.
/// 2. Otherwise it adds the static header of that name.
/// 3. Otherwise it adds the captured header from the [`CapturedHeaders`] in the request's extensions, if
///    [`capture`](HeaderForwardBuilder::capture) named it. A name cannot be both static and captured.
///
/// # Restricted names
///
/// These headers belong to the connection, the session or the credential. Configuring one is an error, and a captured
/// one is dropped:
///
/// - `authorization`, `cookie`, `host`, `content-length`, `expect`, `mcp-session-id`
/// - `forwarded`, `via`, `x-forwarded`, `x-forwarded-*`, `x-real-ip`
/// - the hop-by-hop headers (RFC 9110 §7.6.1): `connection`, `http2-settings`, `keep-alive`, `proxy-authenticate`,
///   `proxy-authorization`, `proxy-connection`, `te`, `trailer`, `transfer-encoding`, `upgrade`
///
/// The same holds for each name with `_` in place of `-`, because servers behind CGI do not distinguish the two.
///
/// # Security
///
/// Header values often are credentials. The layer is therefore bound to one [`Origin`], as
/// [`AuthLayer`](crate::AuthLayer) is. It refuses requests for any other origin with
/// [`AuthErrorKind::WrongOrigin`](crate::AuthErrorKind::WrongOrigin) and marks the values as sensitive.
#[derive(Clone)]
pub struct HeaderForwardLayer {
    guard: OriginGuard,
    headers: Arc<Headers>,
}

struct Headers {
    fixed: Vec<(HeaderName, HeaderValue)>,
    captured: Vec<HeaderName>,
}

impl HeaderForwardLayer {
    /// Starts building a layer that forwards headers to `origin`.
    pub fn builder(origin: Origin) -> HeaderForwardBuilder {
        HeaderForwardBuilder {
            guard: OriginGuard::new(origin),
            fixed: Vec::new(),
            captured: Vec::new(),
            invalid: None,
        }
    }

    /// Copies the headers that this layer forwards from those of an incoming request.
    ///
    /// Insert the result into the extensions of the outgoing request.
    pub fn captured(&self, incoming: &HeaderMap) -> CapturedHeaders {
        let mut headers = HeaderMap::new();
        for name in &self.headers.captured {
            for value in incoming.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        CapturedHeaders::from(headers)
    }
}

impl<S> Layer<S> for HeaderForwardLayer {
    type Service = HeaderForwardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HeaderForwardService {
            inner,
            guard: self.guard.clone(),
            headers: self.headers.clone(),
        }
    }
}

impl fmt::Debug for HeaderForwardLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.headers.debug("HeaderForwardLayer", &self.guard, f)
    }
}

impl Headers {
    fn add_to<B>(&self, request: &mut Request<B>) {
        let captured = request.extensions().get::<CapturedHeaders>().cloned();
        let outgoing = request.headers_mut();
        for (name, value) in &self.fixed {
            if !outgoing.contains_key(name) {
                outgoing.insert(name.clone(), value.clone());
            }
        }
        let Some(CapturedHeaders { headers: captured }) = captured else {
            return;
        };
        for name in &self.captured {
            if !outgoing.contains_key(name) {
                for value in captured.get_all(name) {
                    outgoing.append(name.clone(), value.clone());
                }
            }
        }
    }

    fn debug(&self, name: &str, guard: &OriginGuard, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed: Vec<_> = self.fixed.iter().map(|(name, _)| name).collect();
        f.debug_struct(name)
            .field("origin", guard.origin())
            .field("headers", &fixed)
            .field("captured", &self.captured)
            .finish_non_exhaustive()
    }
}

/// Builds a [`HeaderForwardLayer`].
#[must_use = "nothing is checked before `build`"]
pub struct HeaderForwardBuilder {
    guard: OriginGuard,
    fixed: Vec<(HeaderName, HeaderValue)>,
    captured: Vec<HeaderName>,
    invalid: Option<AuthError>,
}

impl HeaderForwardBuilder {
    /// Adds a static header. Its value is kept as a secret.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        let header = forwardable_name(name).and_then(|name| {
            let value = header_value(&name, value)?;
            Ok((name, value))
        });
        match header {
            Ok(header) => self.fixed.push(header),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Names a header to be captured from incoming requests.
    pub fn capture(mut self, name: &str) -> Self {
        match forwardable_name(name) {
            Ok(name) => self.captured.push(name),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Lets requests with a relative URI pass: the client beneath sends whatever it is given to this layer's origin.
    ///
    /// # Security
    ///
    /// That it does so is not checked, and cannot be.
    pub fn client_fixes_origin(mut self) -> Self {
        self.guard = self.guard.client_fixes_origin();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), for the first of: a name that is not a header's name
    /// (RFC 9110 §5.1), a [restricted](HeaderForwardLayer#restricted-names) one, a value that is empty, begins or ends with a space or
    /// has a character outside of visible ASCII and space, a name that is there twice, static or captured.
    pub fn build(self) -> Result<HeaderForwardLayer, AuthError> {
        let Self {
            guard,
            fixed,
            captured,
            invalid,
        } = self;
        if let Some(error) = invalid {
            return Err(error);
        }
        let mut names: Vec<_> = fixed
            .iter()
            .map(|(name, _)| name)
            .chain(&captured)
            .collect();
        names.sort_unstable_by_key(|name| name.as_str());
        if let Some(name) = names
            .iter()
            .zip(names.iter().skip(1))
            .find_map(|(name, next)| (name == next).then_some(name))
        {
            return Err(configuration(format!(
                "the header `{name}` is to be forwarded twice, and which one is meant cannot be told"
            )));
        }
        Ok(HeaderForwardLayer {
            guard,
            headers: Arc::new(Headers { fixed, captured }),
        })
    }

    fn refuse(&mut self, error: AuthError) {
        self.invalid.get_or_insert(error);
    }
}

impl fmt::Debug for HeaderForwardBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderForwardBuilder")
            .field("origin", self.guard.origin())
            .finish_non_exhaustive()
    }
}

/// Headers of an incoming request, carried in the extensions of an outgoing one.
///
/// [`HeaderForwardLayer::captured`] creates it. It can also be created from any `HeaderMap`, since
/// [`HeaderForwardLayer`] forwards only the headers that its configuration names.
#[derive(Clone)]
pub struct CapturedHeaders {
    headers: Arc<HeaderMap>,
}

impl From<HeaderMap> for CapturedHeaders {
    fn from(mut headers: HeaderMap) -> Self {
        for value in headers.values_mut() {
            value.set_sensitive(true);
        }
        Self {
            headers: Arc::new(headers),
        }
    }
}

impl fmt::Debug for CapturedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.headers.keys()).finish()
    }
}

/// The service that [`HeaderForwardLayer`] creates.
///
/// Its error is [`BoxError`]. [`AuthError::find_in`] finds out whether the layer refused the request or the inner service
/// failed.
#[derive(Clone)]
pub struct HeaderForwardService<S> {
    inner: S,
    guard: OriginGuard,
    headers: Arc<Headers>,
}

inner_service_accessors!(HeaderForwardService);

impl<S, B> Service<Request<B>> for HeaderForwardService<S>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HeaderForwardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match self.guard.check(&request) {
            Ok(()) => {
                self.headers.add_to(&mut request);
                SentOrRefused::sent(self.inner.call(request))
            }
            Err(error) => {
                // A clone is not ready, so this gives back what `poll_ready` reserved, such as a concurrency permit.
                self.inner = self.inner.clone();
                SentOrRefused::refused(error)
            }
        };
        HeaderForwardFuture { state }
    }
}

impl<S: fmt::Debug> fmt::Debug for HeaderForwardService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.headers.debug("HeaderForwardService", &self.guard, f)
    }
}

pin_project! {
    /// The future of [`HeaderForwardService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct HeaderForwardFuture<F> {
        #[pin]
        state: SentOrRefused<F>,
    }
}

impl<F, T, E> Future for HeaderForwardFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().state.poll(cx)
    }
}

impl<F> fmt::Debug for HeaderForwardFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderForwardFuture")
            .finish_non_exhaustive()
    }
}

/// A name that cannot be one is not repeated: it may be the value, in the wrong place.
pub(crate) fn header_name(name: &str) -> Result<HeaderName, AuthError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        configuration(
            "a header's name is empty, or has a character that it cannot have (RFC 9110 §5.1)",
        )
    })
}

/// The value of the header `name`, kept as a secret.
pub(crate) fn header_value(
    name: &HeaderName,
    value: impl Into<String>,
) -> Result<HeaderValue, AuthError> {
    secret_header_value(value).map_err(|error| {
        configuration(format!(
            "the value of the header `{name}` cannot be sent: {error}"
        ))
    })
}

/// See [restricted names](HeaderForwardLayer#restricted-names).
pub(crate) fn is_restricted(name: &HeaderName) -> bool {
    // Servers behind CGI and its heirs do not tell `_` from `-`.
    let name = name.as_str().replace('_', "-");
    matches!(
        name.as_str(),
        "authorization"
            | "connection"
            | "content-length"
            | "cookie"
            | "expect"
            | "forwarded"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "mcp-session-id"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
            | "x-forwarded"
            | "x-real-ip"
    ) || name.starts_with("x-forwarded-")
}

fn forwardable_name(name: &str) -> Result<HeaderName, AuthError> {
    let name = header_name(name)?;
    if is_restricted(&name) {
        return Err(configuration(format!(
            "the header `{name}` cannot be forwarded: it belongs to the connection, the session or the credential; \
             remove it, and let a strategy send the credential"
        )));
    }
    Ok(name)
}

fn configuration(message: impl Into<Cow<'static, str>>) -> AuthError {
    AuthError::new(AuthErrorKind::Configuration, message)
}
