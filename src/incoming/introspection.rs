use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Map, Value};
use tower::{BoxError, Service};

use crate::{
    clock::Clock,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    oauth::{
        client_auth::{ClientAuth, Recipient},
        form::Form,
        http_client::{HttpClient, parse_url},
    },
    origin::Origin,
};

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// An introspection endpoint (RFC 7662 §2): it says what an opaque token stands for.
///
/// Needs the feature `incoming`.
///
/// A [`TokenValidator`](crate::TokenValidator) with such an endpoint asks it about each
/// token that is not a JWT. The members of the response are the claims. `active` must be
/// `true`, `sub` and `aud` are required, and `iss`, `exp`, `nbf` and `iat` are checked if
/// they are present. A member that is `null` counts as absent.
///
/// An endpoint also answers for refresh tokens. So `token_type`, `token_use` and `typ`, if
/// present, must name an access token, for example `Bearer` or `access_token`.
///
/// Callers that bring the same token at the same time wait for one request. A refusal is
/// remembered for 10 s. A valid token is asked about again for each request, unless
/// [tokens are remembered](super::TokenValidatorBuilder::cache_tokens).
///
/// ```no_run
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{ClientAuth, IntrospectionEndpoint, Secret, TokenValidator};
///
/// # fn example(secret: Secret) -> Result<(), tower_identity::BuildError> {
/// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let url = "https://issuer.example.com/introspect";
/// let endpoint = IntrospectionEndpoint::builder(url, client.clone())
///     .client_auth(ClientAuth::basic("gateway", secret))
///     .build()?;
/// let validator = TokenValidator::builder("https://issuer.example.com", client)
///     .audience("https://gateway.example.com")
///     .introspection(endpoint)
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// The token is sent in the body, to this URL alone. Errors do not show the response. A
/// redirect is an error. Switch redirects off in the client: a client that follows them
/// would send the token to another host.
#[derive(Clone)]
pub struct IntrospectionEndpoint {
    inner: Arc<Inner>,
}

struct Inner {
    uri: Uri,
    origin: Origin,
    client_auth: Option<ClientAuth>,
    client: HttpClient,
}

impl IntrospectionEndpoint {
    /// Starts an endpoint at `url`. A clone of `client` sends each request.
    pub fn builder<S, ResBody>(url: impl Into<String>, client: S) -> IntrospectionEndpointBuilder
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        IntrospectionEndpointBuilder::of_client(url, HttpClient::new(client))
    }

    /// The claims about the token, or `None` if it is not active.
    pub(super) async fn introspect(
        &self,
        token: &str,
        issuer: Option<&str>,
        clock: &dyn Clock,
    ) -> Result<Option<Map<String, Value>>, AuthError> {
        let request = self.request(token, issuer, clock).await?;
        let answer = self.inner.client.call(request, TIME_LIMIT).await;
        let answer = answer
            .map_err(|failure| failure.into_error(TIME_LIMIT, |fault| self.unavailable(fault)))?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(answer.status, &answer.body));
        }
        // `serde_json` quotes the text in its errors, so they go no further.
        let mut claims: Map<String, Value> = serde_json::from_slice(&answer.body)
            .map_err(|_| self.unavailable("answered with something else than a JSON object"))?;
        remove_nulls(&mut claims);
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Some(claims)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err(self.unavailable("does not say whether a token is active (RFC 7662 §2.2)")),
        }
    }

    /// A client that is refused today is refused tomorrow (RFC 7662 §2.3).
    #[cold]
    fn refusal(&self, status: StatusCode, body: &[u8]) -> AuthError {
        let answer: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
        let code = answer
            .as_ref()
            .and_then(|answer| answer.get("error")?.as_str());
        let is_client_refused = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
            StatusCode::BAD_REQUEST => {
                matches!(code, Some("invalid_client" | "unauthorized_client"))
            }
            _ => false,
        };
        let status = status.as_u16();
        if is_client_refused {
            let origin = &self.inner.origin;
            AuthError::new(
                AuthErrorKind::Configuration,
                format!(
                    "the introspection endpoint at {origin} refuses this client with {status}; check the client's id, its \
                     secret or key, and that it may introspect tokens"
                ),
            )
        } else {
            self.unavailable(format_args!(
                "answered {status}; check its URL and its own log"
            ))
        }
    }

    async fn request(
        &self,
        token: &str,
        issuer: Option<&str>,
        clock: &dyn Clock,
    ) -> Result<Request<Full<Bytes>>, AuthError> {
        let mut form = Form::default();
        form.push("token", token);
        form.push("token_type_hint", "access_token");
        let mut headers = HeaderMap::new();
        if let Some(client_auth) = &self.inner.client_auth {
            let recipient = Recipient {
                endpoint: &self.inner.uri,
                issuer,
                clock,
            };
            let applied = client_auth.apply(&recipient, &mut form, &mut headers);
            applied.await?;
        }
        Ok(form.post(&self.inner.uri, headers))
    }

    #[cold]
    fn unavailable(&self, fault: impl fmt::Display) -> AuthError {
        AuthError::new(
            AuthErrorKind::Unavailable,
            format!(
                "the introspection endpoint at {} {fault}",
                self.inner.origin
            ),
        )
    }
}

impl fmt::Debug for IntrospectionEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionEndpoint")
            .field("origin", &self.inner.origin)
            .field("client_auth", &self.inner.client_auth)
            .finish_non_exhaustive()
    }
}

/// The answer is not signed, and some issuers write each member that RFC 7662 knows: `null` means that it is absent.
fn remove_nulls(members: &mut Map<String, Value>) {
    members.retain(|_, member| !member.is_null());
    for member in members.values_mut() {
        if let Value::Object(members) = member {
            remove_nulls(members);
        }
    }
}

/// Builds an [`IntrospectionEndpoint`].
///
/// Needs the feature `incoming`.
#[must_use = "nothing is checked before `build`"]
pub struct IntrospectionEndpointBuilder {
    url: String,
    insecure: bool,
    client_auth: Option<ClientAuth>,
    client: HttpClient,
}

impl IntrospectionEndpointBuilder {
    pub(crate) fn of_client(url: impl Into<String>, client: HttpClient) -> Self {
        Self {
            url: url.into(),
            insecure: false,
            client_auth: None,
            client,
        }
    }

    /// Sets how the application authenticates to the endpoint. By default it does not.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = Some(client_auth);
        self
    }

    /// Allows plain `http` for any host.
    ///
    /// # Security
    ///
    /// Anyone who can read the network can then read the users' tokens. Use it only in a trusted network.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Makes the endpoint.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url` is not an absolute `https` URL (or `http` on loopback), or has a fragment or user info.
    /// - `client_auth.client_id` is blank, or has a line break or another character that cannot be seen.
    /// - `client_auth.secret` has such a character.
    pub fn build(self) -> Result<IntrospectionEndpoint, BuildError> {
        let mut faults = Faults::new("IntrospectionEndpoint");
        let url = faults.take("url", parse_url(&self.url, self.insecure));
        if let Some(client_auth) = &self.client_auth {
            client_auth.check(&mut faults);
        }
        let (uri, origin) = faults.or(url)?;
        Ok(IntrospectionEndpoint {
            inner: Arc::new(Inner {
                uri,
                origin,
                client_auth: self.client_auth,
                client: self.client,
            }),
        })
    }
}

impl fmt::Debug for IntrospectionEndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionEndpointBuilder")
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}
