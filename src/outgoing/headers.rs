use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};

use crate::{
    credential_header::CredentialHeader,
    error::{BuildError, Faults},
    hop_by_hop::NotableHeaders,
    inner_service_accessors::inner_service_accessors,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    secret::secret_header_value,
    sent_or_refused::SentOrRefused,
    telemetry,
    trailers::remove_trailers_of_credentials,
};

const NAMED_TWICE: &str = "names a header that an earlier setting names, remove one of the two";

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
/// - `authorization`, `cookie`, `dpop`, `host`, `content-length`, `expect`, `mcp-session-id`
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
    fixed: Vec<(CredentialHeader, HeaderValue)>,
    captured: Vec<CredentialHeader>,
}

impl HeaderForwardLayer {
    /// Starts building a layer that forwards headers to `origin`.
    pub fn builder(origin: Origin) -> HeaderForwardBuilder {
        HeaderForwardBuilder {
            guard: OriginGuard::new(origin),
            fixed: Vec::new(),
            captured: Vec::new(),
        }
    }

    /// Copies the headers that this layer forwards from those of an incoming request.
    ///
    /// Insert the result into the extensions of the outgoing request.
    pub fn captured(&self, incoming: &HeaderMap) -> CapturedHeaders {
        let mut headers = HeaderMap::new();
        for name in self.headers.captured.iter().map(CredentialHeader::name) {
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
        for (header, value) in &self.fixed {
            if outgoing.contains_key(header.name()) {
                header.remove_other_spellings(outgoing);
            } else {
                header.insert(outgoing, value.clone());
            }
        }
        let Some(CapturedHeaders { headers: captured }) = captured else {
            return;
        };
        for header in &self.captured {
            let name = header.name();
            if !outgoing.contains_key(name) {
                header.remove_other_spellings(outgoing);
                for value in captured.get_all(name) {
                    outgoing.append(name.clone(), value.clone());
                }
            }
        }
    }

    fn debug(&self, name: &str, guard: &OriginGuard, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed: Vec<_> = self.fixed.iter().map(|(header, _)| header.name()).collect();
        let captured: Vec<_> = self.captured.iter().map(CredentialHeader::name).collect();
        f.debug_struct(name)
            .field("origin", guard.origin())
            .field("headers", &fixed)
            .field("captured", &captured)
            .finish_non_exhaustive()
    }
}

/// Builds a [`HeaderForwardLayer`].
#[must_use = "nothing is checked before `build`"]
pub struct HeaderForwardBuilder {
    guard: OriginGuard,
    fixed: Vec<(ReadName, Result<HeaderValue, String>)>,
    captured: Vec<ReadName>,
}

type ReadName = Result<HeaderName, &'static str>;

impl HeaderForwardBuilder {
    /// Adds a static header. Its value is kept as a secret.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fixed
            .push((forwardable_name(name), header_value(value)));
        self
    }

    /// Names a header to be captured from incoming requests.
    pub fn capture(mut self, name: &str) -> Self {
        self.captured.push(forwardable_name(name));
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
    /// [`BuildError`], when one of these settings is wrong. The number counts the calls of the setter from 0.
    ///
    /// - `header[0].name` or `capture[0]` is not a header's name (RFC 9110 §5.1), is a
    ///   [restricted](HeaderForwardLayer#restricted-names) one, or was named before, by either setter.
    /// - `header[0].value` is empty, begins or ends with a space, or has a character outside of visible ASCII and
    ///   space.
    pub fn build(self) -> Result<HeaderForwardLayer, BuildError> {
        let mut faults = Faults::new("HeaderForwardLayer");
        let mut fixed: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(self.fixed.len());
        let mut captured: Vec<HeaderName> = Vec::with_capacity(self.captured.len());
        for (index, (name, value)) in self.fixed.into_iter().enumerate() {
            let name = faults.take(format!("header[{index}].name"), name);
            let value = faults.take(format!("header[{index}].value"), value);
            if let Some(name) = name.as_ref()
                && fixed.iter().any(|(earlier, _)| earlier == name)
            {
                faults.add(format!("header[{index}].name"), NAMED_TWICE);
            }
            fixed.extend(name.zip(value));
        }
        for (index, name) in self.captured.into_iter().enumerate() {
            let setting = format!("capture[{index}]");
            let Some(name) = faults.take(setting.clone(), name) else {
                continue;
            };
            if captured.contains(&name) || fixed.iter().any(|(fixed, _)| *fixed == name) {
                faults.add(setting, NAMED_TWICE);
            }
            captured.push(name);
        }
        faults.check()?;
        Ok(HeaderForwardLayer {
            guard: self.guard,
            headers: Arc::new(Headers {
                fixed: fixed
                    .into_iter()
                    .map(|(name, value)| (CredentialHeader::new(name), value))
                    .collect(),
                captured: captured.into_iter().map(CredentialHeader::new).collect(),
            }),
        })
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
/// [`HeaderForwardLayer::captured`] creates it, as the example of the layer shows. It can also be created from any `HeaderMap`, since
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
/// Its error is `BoxError`. [`AuthError::find_in`](crate::AuthError::find_in) finds out whether the layer refused the
/// request or the inner service failed.
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
        let notable = NotableHeaders::of(request.headers());
        let state = match self.guard.check(&request, notable) {
            Ok(()) => {
                let announces_trailers = notable.remove_hop_by_hop(request.headers_mut());
                self.headers.add_to(&mut request);
                if announces_trailers {
                    remove_trailers_of_credentials(request.headers_mut());
                }
                SentOrRefused::sent(self.inner.call(request))
            }
            Err(error) => {
                // A clone is not ready, so this gives back what `poll_ready` reserved, such as a concurrency permit.
                self.inner = self.inner.clone();
                telemetry::refused("header_forward", &error);
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
    ///
    /// [`HeaderForwardLayer`](crate::HeaderForwardLayer) has an example.
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
pub(crate) fn header_name(name: &str) -> Result<HeaderName, &'static str> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        if name.is_empty() {
            "is empty, give it a value"
        } else {
            "has a character that the name of a header cannot have (RFC 9110 §5.1)"
        }
    })
}

/// The value of a header, kept as a secret.
pub(crate) fn header_value(value: impl Into<String>) -> Result<HeaderValue, String> {
    secret_header_value(value).map_err(|error| format!("cannot be sent: {error}"))
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
            | "dpop"
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

fn forwardable_name(name: &str) -> Result<HeaderName, &'static str> {
    let name = header_name(name)?;
    if is_restricted(&name) {
        return Err(
            "is a header of the connection, the session or the credential and cannot be forwarded; remove it, and let a \
             strategy send the credential",
        );
    }
    Ok(name)
}
