use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::ACCEPT};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Map, Value};
use tower::{BoxError, Service};

use crate::{
    bearer_challenge::BearerChallenge,
    error::{AuthError, AuthErrorKind},
    origin::Origin,
};

use super::http_client::{BoxFuture, HttpClient, parse_url};

const TIME_LIMIT: Duration = Duration::from_secs(10);
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A backend's statement about the tokens that it accepts: its protected resource metadata (RFC 9728).
///
/// Needs the feature `token-exchange`.
///
/// Read it to find the authorization server of an MCP server, before you configure a strategy, or a
/// [provider](crate::upstream::ProviderSettings) whose accounts users link:
///
/// ```no_run
/// use http::HeaderMap;
/// use tower::BoxError;
/// use tower_identity::{
///     client::hyper::https_client,
///     oauth::ResourceMetadata,
///     upstream::ProviderSettings,
/// };
///
/// async fn provider_of(url: &str) -> Result<ProviderSettings, BoxError> {
///     let client = https_client()?;
///     let refusal = HeaderMap::new();
///     let metadata = ResourceMetadata::fetch(url, &refusal, client).await?;
///     let issuer = metadata.authorization_servers().first();
///     let issuer = issuer.ok_or("it names no authorization server")?;
///     Ok(ProviderSettings::discovered(issuer.clone())
///         .resource(metadata.resource())
///         .scopes(metadata.scopes().to_vec()))
/// }
/// # let _ = provider_of;
/// ```
///
/// # Security
///
/// The backend chooses the authorization server. Show it to the operator or the user before a secret goes there. The
/// `resource` of the metadata must be that of the backend's URL: its origin, and its path or a parent of it. So a backend
/// cannot obtain a token for another resource (RFC 9728 §7.3).
#[derive(Clone, Debug)]
pub struct ResourceMetadata {
    resource: String,
    authorization_servers: Vec<String>,
    scopes: Vec<String>,
}

impl ResourceMetadata {
    /// Fetches the metadata of the backend at `url` with a clone of `client`, which must not follow redirects.
    ///
    /// `refusal` has the headers of a response with which the backend refused a request, or is empty. Its challenge may
    /// name the place of the metadata, which must be on the backend's origin. Otherwise the metadata is looked for at the
    /// well-known places: for `https://mcp.example.com/mcp`, these are
    /// `https://mcp.example.com/.well-known/oauth-protected-resource/mcp` and the same without `/mcp`.
    ///
    /// # Errors
    ///
    /// - [`Configuration`](AuthErrorKind::Configuration): `url` is not `https`, and not loopback.
    /// - [`Unavailable`](AuthErrorKind::Unavailable): the backend has no metadata, or its metadata is for another resource.
    ///
    /// # Panics
    ///
    /// When it is polled outside of a Tokio runtime with time enabled.
    pub fn fetch<S, ResBody>(url: &str, refusal: &HeaderMap, client: S) -> ResourceMetadataFuture
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        let challenge = BearerChallenge::read(refusal).unwrap_or_default();
        let backend = Backend::new(url, HttpClient::new(client));
        ResourceMetadataFuture {
            future: Box::pin(async move { backend?.metadata(challenge).await }),
        }
    }

    /// The identifier of the resource, for the parameter `resource` of a token request (RFC 8707).
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The issuer identifiers of the authorization servers whose tokens the backend accepts.
    pub fn authorization_servers(&self) -> &[String] {
        &self.authorization_servers
    }

    /// The scopes to ask for: those of the challenge if it has any, or else all that the metadata lists. If there are none,
    /// ask for none (MCP, scope selection strategy).
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
}

struct Backend {
    origin: Origin,
    /// Without a slash at its end.
    path: String,
    client: HttpClient,
}

impl Backend {
    fn new(url: &str, client: HttpClient) -> Result<Self, AuthError> {
        let (uri, origin) = parse_url(url, false).map_err(|fault| {
            let fault = format!("the URL of the backend {fault}");
            AuthError::new(AuthErrorKind::Configuration, fault)
        })?;
        Ok(Self {
            origin,
            path: uri.path().trim_end_matches('/').to_owned(),
            client,
        })
    }

    async fn metadata(&self, challenge: BearerChallenge) -> Result<ResourceMetadata, AuthError> {
        let mut places = Vec::new();
        match &challenge.resource_metadata {
            Some(place) if self.has_origin_of(place) => places.push(place.clone()),
            Some(_) => {
                return Err(self.unavailable("names a place for it that is not on its own origin"));
            }
            None => {
                let root = format!("{}{WELL_KNOWN}", self.origin);
                if !self.path.is_empty() {
                    places.push(format!("{root}{}", self.path));
                }
                places.push(root);
            }
        }
        for place in &places {
            if let Some(document) = self.read(place).await? {
                return self.checked(&document, challenge.scope.as_deref());
            }
        }
        Err(self.unavailable("has none"))
    }

    /// Returns `None` if there is no document.
    async fn read(&self, place: &str) -> Result<Option<Map<String, Value>>, AuthError> {
        let request =
            Request::get(place).header(ACCEPT, HeaderValue::from_static("application/json"));
        let request = request.body(Full::default()).map_err(|error| {
            self.unavailable("names a place for it that is not a URL")
                .with_source(error)
        })?;
        let answer = self.client.call(request, TIME_LIMIT).await;
        let answer = answer
            .map_err(|failure| failure.into_error(TIME_LIMIT, |fault| self.unavailable(fault)))?;
        match answer.status {
            StatusCode::OK => match serde_json::from_slice(&answer.body) {
                Ok(document) => Ok(Some(document)),
                // `serde_json` quotes the text in its errors.
                Err(_) => Err(self.unavailable("sent a document that is not a JSON object")),
            },
            status if status.is_client_error() => Ok(None),
            status => {
                let fault = format!("answered {}", status.as_u16());
                Err(self.unavailable(&fault))
            }
        }
    }

    fn checked(
        &self,
        document: &Map<String, Value>,
        asked: Option<&str>,
    ) -> Result<ResourceMetadata, AuthError> {
        let resource = document.get("resource").and_then(Value::as_str);
        let resource = resource.filter(|resource| self.is_resource(resource));
        let resource = resource.ok_or_else(|| {
            self.unavailable("sent the metadata of another resource (RFC 9728 §3.3)")
        })?;
        let texts = |name| {
            let texts = document.get(name).and_then(Value::as_array);
            let texts = texts.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut authorization_servers = texts("authorization_servers");
        authorization_servers.retain(|server| self.may_name(server));
        Ok(ResourceMetadata {
            resource: resource.to_owned(),
            authorization_servers,
            scopes: match asked {
                Some(asked) => asked.split_ascii_whitespace().map(str::to_owned).collect(),
                None => texts("scopes_supported"),
            },
        })
    }

    /// Whether it identifies this backend: its origin, and its path or a parent of it.
    fn is_resource(&self, resource: &str) -> bool {
        let Ok((uri, origin)) = parse_url(resource, false) else {
            return false;
        };
        let parent = uri.path().trim_end_matches('/');
        let below = self.path.strip_prefix(parent);
        origin == self.origin
            && uri.query().is_none()
            && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// A backend elsewhere must not have requests sent to this machine.
    fn may_name(&self, server: &str) -> bool {
        parse_url(server, false)
            .is_ok_and(|(_, origin)| origin.scheme() == "https" || self.origin.scheme() == "http")
    }

    fn has_origin_of(&self, place: &str) -> bool {
        parse_url(place, false).is_ok_and(|(_, origin)| origin == self.origin)
    }

    #[cold]
    fn unavailable(&self, fault: &str) -> AuthError {
        let (origin, path) = (&self.origin, &self.path);
        AuthError::new(
            AuthErrorKind::Unavailable,
            format!(
                "the resource metadata of the backend {origin}{path} is not available: it {fault}"
            ),
        )
    }
}

/// The future of [`ResourceMetadata::fetch`].
///
/// Needs the feature `token-exchange`.
///
/// [`ResourceMetadata`] has an example.
#[must_use = "futures do nothing unless polled"]
pub struct ResourceMetadataFuture {
    future: BoxFuture<Result<ResourceMetadata, AuthError>>,
}

impl Future for ResourceMetadataFuture {
    type Output = Result<ResourceMetadata, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResourceMetadataFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceMetadataFuture")
            .finish_non_exhaustive()
    }
}
