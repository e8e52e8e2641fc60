use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use form_urlencoded::byte_serialize;
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, Faults},
    secret::{check_client_secret, secret_header_value},
};

#[cfg(feature = "private-key-jwt")]
use super::private_key_jwt::PrivateKeyJwt;
use super::{
    form::Form,
    secret_source::{Expected, SecretSource},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The way in which the client authenticates to an endpoint (RFC 6749 §2.3).
///
/// Needs the feature `token-exchange`.
///
/// | the client has | use | name of the method |
/// | --- | --- | --- |
/// | only an ID | [`none`](Self::none) | `none` |
/// | a secret | [`basic`](Self::basic), [`post`](Self::post) | `client_secret_basic`, `client_secret_post` |
/// | a private key | `private_key_jwt` (feature `private-key-jwt`) | `private_key_jwt` |
/// | a JWT that its platform issues | [`assertion`](Self::assertion), [`spiffe`](Self::spiffe) | `jwt-bearer`, `jwt-spiffe` |
/// | a TLS certificate | [`tls_client_auth`](Self::tls_client_auth), [`self_signed_tls_client_auth`](Self::self_signed_tls_client_auth) | the same |
///
/// ```
/// use tower_identity::{ClientAuth, Secret};
///
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let client_auth = ClientAuth::basic("gateway", secret);
/// # Ok::<(), tower_identity::InvalidSecret>(())
/// ```
///
/// Only this method is used. If the endpoint refuses it, no other method is tried.
///
/// An ID and a secret consist of visible ASCII and spaces (RFC 6749, appendix A). Other letters are sent as UTF-8, because
/// some issuers let an operator choose such a secret. Line breaks and other characters that cannot be seen, such as a byte
/// order mark at the start of a file, are an error when the endpoint is built.
#[derive(Clone)]
pub struct ClientAuth {
    client_id: String,
    method: Method,
}

#[derive(Clone)]
enum Method {
    None,
    Basic(SecretSource),
    Post(SecretSource),
    Assertion {
        source: SecretSource,
        assertion_type: &'static str,
        names_client: bool,
    },
    #[cfg(feature = "private-key-jwt")]
    PrivateKeyJwt(PrivateKeyJwt),
    /// The connection authenticates the client.
    Tls {
        name: &'static str,
    },
}

/// A client's authentication, as a document that anyone may read describes it.
#[cfg(feature = "linking")]
#[derive(PartialEq)]
pub(crate) enum PublishedAuth {
    None,
    #[cfg(feature = "private-key-jwt")]
    PrivateKeyJwt {
        algorithm: &'static str,
        /// `None` if it is not known in this process.
        key: Option<serde_json::Value>,
    },
}

/// The endpoint that the client authenticates to.
pub(crate) struct Recipient<'a> {
    #[cfg_attr(
        not(feature = "private-key-jwt"),
        expect(
            dead_code,
            reason = "only an assertion that is signed here is addressed"
        )
    )]
    pub(crate) endpoint: &'a Uri,
    /// The issuer identifier of its authorization server, if it is known.
    #[cfg_attr(
        not(feature = "private-key-jwt"),
        expect(
            dead_code,
            reason = "only an assertion that is signed here is addressed"
        )
    )]
    pub(crate) issuer: Option<&'a str>,
    pub(crate) clock: &'a dyn Clock,
}

impl ClientAuth {
    /// Creates a public client, which sends `client_id` in the form and has no secret (RFC 6749 §3.2.1).
    pub fn none(client_id: impl Into<String>) -> Self {
        Self::new(client_id, Method::None)
    }

    /// Creates a client that sends its ID and secret with HTTP Basic: `client_secret_basic`.
    ///
    /// Both are form-urlencoded first (RFC 6749 §2.3.1). The secret is a [`Secret`](crate::Secret), or a [`SecretSource`]
    /// for one that is replaced while the application runs:
    ///
    /// ```
    /// use tower_identity::{ClientAuth, oauth::SecretSource};
    ///
    /// let secret = SecretSource::file("/run/secrets/gateway-client-secret");
    /// let client_auth = ClientAuth::basic("gateway", secret);
    /// ```
    pub fn basic(client_id: impl Into<String>, secret: impl Into<SecretSource>) -> Self {
        Self::new(client_id, Method::Basic(secret.into()))
    }

    /// Creates a client that sends its ID and secret in the form: `client_secret_post` (RFC 6749 §2.3.1).
    pub fn post(client_id: impl Into<String>, secret: impl Into<SecretSource>) -> Self {
        Self::new(client_id, Method::Post(secret.into()))
    }

    /// Creates a client that sends an assertion which somebody else issues, for example the platform that the workload
    /// runs on (RFC 7521 §4.2, RFC 7523 §2.2): `jwt-bearer`.
    ///
    /// With it an application needs no stored secret (workload identity federation). For example, Kubernetes writes a
    /// token for the application into a file, and Microsoft Entra accepts it in place of the client's secret:
    ///
    /// ```
    /// use tower_identity::{ClientAuth, oauth::SecretSource};
    ///
    /// let file = "/var/run/secrets/azure/tokens/azure-identity-token";
    /// let client_id = "11111111-2222-3333-4444-555555555555";
    /// let client_auth =
    ///     ClientAuth::assertion(client_id, SecretSource::file(file));
    /// ```
    ///
    /// The assertion is a signed JWT. Each grant can be authenticated with it.
    pub fn assertion(client_id: impl Into<String>, assertion: impl Into<SecretSource>) -> Self {
        Self::supplied(client_id, assertion, JWT_BEARER)
    }

    /// Creates a client that sends a JWT-SVID of SPIFFE (draft-ietf-oauth-spiffe-client-auth): `jwt-spiffe`.
    ///
    /// The client's ID is usually its SPIFFE ID. An example is at [`SecretSource::function`].
    pub fn spiffe(client_id: impl Into<String>, svid: impl Into<SecretSource>) -> Self {
        Self::supplied(client_id, svid, JWT_SPIFFE)
    }

    /// Leaves `client_id` out of the form, because the endpoint takes it from the assertion (RFC 7521 §4.2).
    ///
    /// This changes only [`assertion`](Self::assertion) and [`spiffe`](Self::spiffe).
    #[must_use]
    pub fn omit_client_id(mut self) -> Self {
        if let Method::Assertion { names_client, .. } = &mut self.method {
            *names_client = false;
        }
        self
    }

    /// Creates a client that sends an assertion, newly signed for each request: `private_key_jwt` (RFC 7523 §2.2).
    ///
    /// Needs the feature `private-key-jwt`.
    #[cfg(feature = "private-key-jwt")]
    pub fn private_key_jwt(client_id: impl Into<String>, key: PrivateKeyJwt) -> Self {
        Self::new(client_id, Method::PrivateKeyJwt(key))
    }

    /// Creates a client that authenticates with the certificate of its TLS connection, which the issuer knows by its
    /// subject and trusts for its authority: `tls_client_auth` (RFC 8705 §2.1).
    ///
    /// The form has the `client_id` and no secret. The HTTP client of the endpoint must present the certificate, for
    /// example with [`CertificateSource`](crate::client::hyper::CertificateSource). If the issuer's metadata has
    /// `mtls_endpoint_aliases`, the endpoint's URL is the one in there (RFC 8705 §5).
    /// [`OAuthProvider`](crate::upstream::OAuthProvider) reads it from the metadata.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower_identity::{
    ///     ClientAuth, TokenEndpoint,
    ///     client::hyper::{CertificateSource, HttpsClient},
    /// };
    ///
    /// fn endpoint(
    ///     certificate: CertificateSource,
    /// ) -> Result<TokenEndpoint, tower_identity::BuildError> {
    ///     let client = HttpsClient::<Full<Bytes>>::builder()
    ///         .client_certificate(certificate.clone())
    ///         .build()?;
    ///     TokenEndpoint::builder("https://mtls.idp.example.com/token", client)
    ///         .client_auth(ClientAuth::tls_client_auth("gateway"))
    ///         .client_certificate(certificate)
    ///         .build()
    /// }
    /// # let _ = endpoint;
    /// ```
    pub fn tls_client_auth(client_id: impl Into<String>) -> Self {
        let name = "tls_client_auth";
        Self::new(client_id, Method::Tls { name })
    }

    /// Creates a client that authenticates with the certificate of its TLS connection, which was registered at the issuer
    /// itself: `self_signed_tls_client_auth` (RFC 8705 §2.2).
    ///
    /// The rest is as with [`tls_client_auth`](Self::tls_client_auth). Register a new certificate at the issuer before it
    /// replaces the one that is presented.
    pub fn self_signed_tls_client_auth(client_id: impl Into<String>) -> Self {
        let name = "self_signed_tls_client_auth";
        Self::new(client_id, Method::Tls { name })
    }

    /// Returns the client's ID.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    fn supplied(
        client_id: impl Into<String>,
        source: impl Into<SecretSource>,
        assertion_type: &'static str,
    ) -> Self {
        let method = Method::Assertion {
            source: source.into(),
            assertion_type,
            names_client: true,
        };
        Self::new(client_id, method)
    }

    fn new(client_id: impl Into<String>, method: Method) -> Self {
        Self {
            client_id: client_id.into(),
            method,
        }
    }

    /// Returns the public key by which the client's assertions are verified, if the client signs them itself.
    #[cfg(feature = "testing")]
    pub(crate) fn public_key(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        match &self.method {
            Method::PrivateKeyJwt(key) => key.public_key(),
            _ => None,
        }
    }

    /// Returns the `Authorization` header and the form by which the client would authenticate now.
    #[cfg(feature = "testing")]
    pub(crate) async fn sent_to(
        &self,
        endpoint: &str,
        clock: &dyn Clock,
    ) -> Option<(Option<String>, bytes::Bytes)> {
        let (mut form, mut headers) = (Form::default(), HeaderMap::new());
        let endpoint = endpoint.parse().ok()?;
        let recipient = Recipient {
            endpoint: &endpoint,
            issuer: None,
            clock,
        };
        let applied = self.apply(&recipient, &mut form, &mut headers);
        applied.await.ok()?;
        let authorization = headers.get(AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        Some((
            authorization.map(str::to_owned),
            bytes::Bytes::from_owner(form.encode()),
        ))
    }

    /// Returns `true` if `text` repeats the client's secret or assertion.
    pub(super) fn repeats_secret(&self, text: &str) -> bool {
        self.source().is_some_and(|source| source.repeats(text))
    }

    fn source(&self) -> Option<&SecretSource> {
        match &self.method {
            Method::Basic(source) | Method::Post(source) | Method::Assertion { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }

    pub(crate) fn is_confidential(&self) -> bool {
        !matches!(self.method, Method::None)
    }

    /// Whether the connection authenticates the client (RFC 8705 §2).
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.method, Method::Tls { .. })
    }

    /// The part of the setting that anyone may know. `None` if there is a secret, or an assertion of somebody else.
    #[cfg(feature = "linking")]
    pub(crate) fn published(&self) -> Option<PublishedAuth> {
        match &self.method {
            Method::None => Some(PublishedAuth::None),
            #[cfg(feature = "private-key-jwt")]
            Method::PrivateKeyJwt(key) => Some(PublishedAuth::PrivateKeyJwt {
                algorithm: key.algorithm(),
                key: key.public_jwk(),
            }),
            _ => None,
        }
    }

    /// Adds the whole setting to `scope`, including the secret, so that a token issued to one client is not sent for
    /// another.
    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        let scope = scope
            .field("client_id", &self.client_id)
            .field("client_auth", self.method_name());
        match &self.method {
            Method::None | Method::Tls { .. } => scope,
            Method::Basic(secret) | Method::Post(secret) => secret.describe(scope, "client_secret"),
            Method::Assertion { source, .. } => source.describe(scope, "client_assertion"),
            #[cfg(feature = "private-key-jwt")]
            Method::PrivateKeyJwt(key) => key.describe(scope),
        }
    }

    /// Reports an ID or a secret that cannot be one, under the setting `client_auth`.
    pub(crate) fn check(&self, faults: &mut Faults) {
        match check_client_secret(&self.client_id) {
            Ok(()) => faults.need_text("client_auth.client_id", &self.client_id),
            Err(_) => faults.add(
                "client_auth.client_id",
                "has a line break or another character that cannot be seen, remove it",
            ),
        }
        match &self.method {
            Method::Basic(secret) | Method::Post(secret) => {
                secret.check("client_auth.secret", Expected::ClientSecret, faults);
            }
            Method::Assertion { source, .. } => {
                source.check("client_auth.assertion", Expected::Jwt, faults);
            }
            _ => {}
        }
    }

    pub(crate) async fn apply(
        &self,
        recipient: &Recipient<'_>,
        form: &mut Form,
        headers: &mut HeaderMap,
    ) -> Result<(), AuthError> {
        match &self.method {
            Method::None | Method::Tls { .. } => form.push("client_id", &self.client_id),
            Method::Basic(secret) => {
                let secret = secret.get(Expected::ClientSecret, recipient.clock).await?;
                let credentials = basic_credentials(&self.client_id, secret.expose());
                let value = secret_header_value(credentials).map_err(|error| {
                    AuthError::new(
                        AuthErrorKind::Configuration,
                        "the client's id and secret cannot be sent as HTTP Basic",
                    )
                    .with_source(error)
                })?;
                headers.insert(AUTHORIZATION, value);
            }
            Method::Post(secret) => {
                let secret = secret.get(Expected::ClientSecret, recipient.clock).await?;
                form.push("client_id", &self.client_id);
                form.push("client_secret", secret.expose());
            }
            Method::Assertion {
                source,
                assertion_type,
                names_client,
            } => {
                let assertion = source.get(Expected::Jwt, recipient.clock).await?;
                if *names_client {
                    form.push("client_id", &self.client_id);
                }
                form.push("client_assertion_type", assertion_type);
                form.push("client_assertion", assertion.expose());
            }
            #[cfg(feature = "private-key-jwt")]
            Method::PrivateKeyJwt(key) => {
                let assertion = key.assertion(&self.client_id, recipient).await?;
                form.push("client_id", &self.client_id);
                form.push("client_assertion_type", JWT_BEARER);
                form.push("client_assertion", &assertion);
            }
        }
        Ok(())
    }

    fn method_name(&self) -> &'static str {
        match &self.method {
            Method::None => "none",
            Method::Basic(_) => "client_secret_basic",
            Method::Post(_) => "client_secret_post",
            Method::Assertion { assertion_type, .. } => match assertion_type {
                &JWT_SPIFFE => "jwt_spiffe",
                _ => "jwt_bearer",
            },
            #[cfg(feature = "private-key-jwt")]
            Method::PrivateKeyJwt(_) => "private_key_jwt",
            Method::Tls { name } => name,
        }
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth")
            .field("client_id", &self.client_id)
            .field("method", &self.method_name())
            .finish_non_exhaustive()
    }
}

fn basic_credentials(client_id: &str, secret: &str) -> String {
    const SCHEME: &str = "Basic ";

    let pair = id_and_secret(client_id, secret);
    let mut credentials = String::with_capacity(SCHEME.len() + pair.len().div_ceil(3) * 4);
    credentials.push_str(SCHEME);
    STANDARD.encode_string(pair.as_bytes(), &mut credentials);
    credentials
}

/// Joins ID and secret in memory that is large enough from the start, because a `String` that grows leaves a copy that
/// is not wiped.
fn id_and_secret(client_id: &str, secret: &str) -> Zeroizing<String> {
    let longest = 3 * (client_id.len() + secret.len()) + 1;
    let mut pair = Zeroizing::new(String::with_capacity(longest));
    pair.extend(byte_serialize(client_id.as_bytes()));
    pair.push(':');
    pair.extend(byte_serialize(secret.as_bytes()));
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_left_behind_in_memory_by_a_text_that_grew() {
        let pair = id_and_secret("%", "%%");
        assert_eq!(*pair, "%25:%25%25");
        assert_eq!(pair.capacity(), pair.len());
        let credentials = basic_credentials("%", "%%");
        assert_eq!(credentials.capacity(), credentials.len());
    }
}
