mod bindings;
pub(crate) mod builder;
mod caller;
pub(crate) mod certificate_binding;
mod claims;
mod introspection;
mod jwt;
mod token;
mod token_kind;
mod validated_tokens;
pub(crate) mod validating;

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    error::{AuthError, AuthErrorKind},
    identity::Reading,
    oauth::challenge::{Challenge, Scheme},
    upstream::upstream_tokens::UpstreamTokens,
};

#[cfg(feature = "dpop")]
use super::dpop::{Presentation, Verified, Verifier};
use super::{
    issuer::{Issuer, TrustedIssuer},
    key_set::KeySet,
    layer::credentials,
    metadata::ProtectedResourceMetadata,
};

use bindings::Presented;
use builder::TokenValidatorBuilder;
use claims::Admission;
use introspection::Introspection;
use validated_tokens::ValidatedTokens;
use validating::Validating;

/// Validates access tokens of one or several issuers for this resource, and turns them
/// into an [`Identity`](crate::Identity).
///
/// Needs the feature `incoming`.
///
/// A clone costs one reference count.
///
/// ```no_run
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::ServiceBuilder;
/// use tower_identity::{
///     MemoryStore, TokenValidator, TokenValidatorLayer, UpstreamTokens,
///     upstream::Provider,
/// };
///
/// # fn example(providers: Vec<Provider>) -> Result<(), tower_identity::BuildError> {
/// # let jwks_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// # let app = tower::service_fn(async |_: Request<()>| {
/// #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// let issuer = "https://issuer.example.com";
/// let validator = TokenValidator::builder(issuer, jwks_client)
///     .audience("https://gateway.example.com")
///     .resource("https://gateway.example.com/mcp")
///     .upstream_tokens(UpstreamTokens::new(MemoryStore::new(), providers))
///     .build()?;
/// // A service for its own path, next to the app.
/// let metadata = validator.resource_metadata();
/// let app = ServiceBuilder::new()
///     .layer(TokenValidatorLayer::new(validator))
///     .service(app);
/// # Ok(())
/// # }
/// ```
///
/// # What is checked
///
/// | part of the token | requirement |
/// | --- | --- |
/// | the token | at most 16 KiB of visible ASCII |
/// | `alg` | RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA (also as `Ed25519`, RFC 9864), and an algorithm of the key. Never `none`, never HS |
/// | `kid` | a key of the token's issuer. Without a `kid`, every suitable key is tried |
/// | `typ` | absent, `JWT` or `at+jwt` (RFC 9068 §2.1), in any case. With [`require_at_jwt`](TokenValidatorBuilder::require_at_jwt), only `at+jwt` |
/// | `crit` | absent, and not `null`: the crate supports no extension (RFC 7515 §4.1.11) |
/// | `jku`, `x5u`, `jwk`, `x5c` | none: they are not read |
/// | `iss` | equal to one of the issuers, character by character. It decides which keys and audiences count. For an issuer with `{tenantid}`, see [`Issuer`](super::Issuer#many-tenants) |
/// | `aud` | present, and contains one of the configured audiences. It may be absent in tokens of an [admitted client](TokenValidatorBuilder::admit_client) |
/// | `client_id` | not read, unless `aud` is absent and there are admitted clients |
/// | `exp` | present, and in the future |
/// | `nbf`, `iat` | in the past, if present |
/// | `sub` | present, and not blank |
/// | `token_type`, `token_use`, `typ` (as claims) | not the name of another kind of token, such as `refresh_token` or `id`. `DPoP` only with `cnf.jkt` |
/// | `cnf` with `x5t#S256` | the thumbprint of the [certificate](super::ClientCertificate) that the connection was made with (RFC 8705 §3), in every configuration |
/// | `cnf` with `jkt` | the thumbprint of the key that the caller proves to have, in every configuration. Without a [policy](TokenValidatorBuilder::dpop) such a token is refused (RFC 9449 §6) |
/// | `cnf` with anything else | none, unless [bound tokens are admitted](TokenValidatorBuilder::admit_bound_tokens) (RFC 7800) |
/// | `act` | if present, at most 8 nested objects ([`delegation_chain`](crate::delegation_chain)) |
///
/// Times are compared with the [clock](trait@crate::Clock#setting-the-clock), with a leeway
/// of one minute.
///
/// A token with one of these claims as `null`, or as a value of the wrong type, is refused,
/// and the error names the claim.
///
/// A token that is not a JWT is sent to the
/// [introspection endpoint](TokenValidatorBuilder::introspection), if there is one.
///
/// # The outcome
///
/// The identity has the token and its claims, among them `sub`, `iss`, `name` and
/// `email`. If upstream tokens are [kept by session](UpstreamTokens::session_claim), the
/// claim that names the session is left out.
///
/// | fault | [`AuthErrorKind`] | response |
/// | --- | --- | --- |
/// | the token has expired | `Expired` | 401 `invalid_token` |
/// | any other fault of the token | `Rejected` | 401 `invalid_token` |
/// | a fault of the proof, with a [policy](TokenValidatorBuilder::dpop) | `Rejected` | 401 `invalid_dpop_proof` or `use_dpop_nonce` |
/// | an upstream provider needs a new login | `Rejected` | 401 `invalid_token`, unless [such callers pass](TokenValidatorBuilder::admit_without_upstream_login) |
/// | the issuer or the store of upstream tokens cannot be reached, or sends an unusable answer | `Unavailable` | 503 |
/// | the token names an unknown key, and the issuer was asked for its keys too often to be asked now | `Unavailable` | 503, with the time until it can be asked |
/// | the introspection endpoint refuses this application, for example because its secret is wrong | `Configuration` | 500 |
///
/// If an upstream provider cannot be reached, the request still passes. A strategy that
/// needs this provider's token then fails with the provider's error
/// ([`Identity::unavailable_upstream`](crate::Identity::unavailable_upstream)), which is a 503.
///
/// The error carries the challenge, and [`AuthError::to_response`] is the response.
///
/// # Where the keys come from
///
/// The issuer's metadata names the URL of its key set. The validator looks for the
/// metadata at these locations, until one has it:
///
/// 1. `/.well-known/openid-configuration` behind the issuer's path (OIDC Discovery §4)
/// 2. `/.well-known/oauth-authorization-server` before the path (RFC 8414 §3)
/// 3. `/.well-known/openid-configuration` before the path (RFC 8414 §5)
///
/// If it is elsewhere, set [`metadata_url`](TokenValidatorBuilder::metadata_url), or
/// [`jwks_url`](TokenValidatorBuilder::jwks_url) for the key set itself. The validator
/// never fetches a URL that a token names, and nothing for a token of an issuer that it
/// does not know. With a given [`KeySet`] it fetches nothing at all.
///
/// | the keys are fetched | callers that wait |
/// | --- | --- |
/// | when no key is known yet | all, for one fetch |
/// | in the last quarter of the keys' age, at most 5 minutes before its end | none: one fetch runs in the background |
/// | after that age, if the issuer could not be reached | none: the known keys stay valid, and fetches are repeated with growing pauses |
/// | when a token names an unknown key | that caller, for one fetch |
///
/// Unknown keys cause at most 6 fetches at once, and 6 in a minute. After that, a token
/// that names one is not called bad: the response is a 503 with the time to wait. A token
/// that is a minute older than keys that were fetched in the last 10 s causes no fetch.
///
/// The keys age after the `max-age` of the response (RFC 9111 §5.2.2.1), but at least 5
/// minutes and at most a day. Without a `max-age`, they age after an hour.
///
/// A response must arrive within 10 s. The validator refuses metadata that names another
/// issuer, a key set at a URL that is neither `https` nor loopback, a redirect, a response
/// of more than 1 MiB, a set of more than 100 keys, and a set without a usable key. The
/// keys of an `https` issuer must be at an `https` URL. A refused key set changes nothing:
/// the validator keeps the keys that it knew before.
///
/// # Security
///
/// Known keys outlive an outage of the issuer, however long it is. An attacker who keeps
/// this process from reaching the issuer can thereby keep a withdrawn key valid. The
/// crate logs a warning each time that the issuer cannot be reached.
#[derive(Clone)]
pub struct TokenValidator {
    inner: Arc<Inner>,
}

struct Inner {
    /// The one whom the validator was started with comes first.
    issuers: Vec<TrustedIssuer>,
    admission: Admission,
    introspection: Option<Introspection>,
    #[cfg(feature = "dpop")]
    dpop: Option<Verifier>,
    validated_tokens: Option<ValidatedTokens>,
    upstream: Option<UpstreamTokens>,
    login_required: LoginRequired,
    challenge: Challenge,
    metadata: Option<ProtectedResourceMetadata>,
    clock: Arc<dyn Clock>,
}

impl TokenValidator {
    /// Starts a validator for tokens of `issuer`, a URL. A clone of `client` fetches the issuer's metadata and keys.
    ///
    /// Write the issuer exactly as in the `iss` of its tokens. For example, the issuers of Auth0 end with `/`, and those of
    /// Okta do not.
    ///
    /// # Security
    ///
    /// The client must not follow redirects, because the target of a redirect would choose the keys.
    pub fn builder<S, ResBody>(issuer: impl Into<String>, client: S) -> TokenValidatorBuilder
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        TokenValidatorBuilder::new(Issuer::new(issuer, client))
    }

    /// Starts a validator for tokens of this issuer that are signed with one of `keys`. It fetches nothing.
    pub fn builder_with_keys(issuer: impl Into<String>, keys: KeySet) -> TokenValidatorBuilder {
        TokenValidatorBuilder::new(Issuer::with_keys(issuer, keys))
    }

    /// Validates a token, given without its scheme, and returns the identity of its caller.
    ///
    /// A token that is bound to a key or to a certificate is refused. [`validate_request`](Self::validate_request) accepts
    /// it with its proof, or over the right connection.
    ///
    /// If the outcome is known at once, the future is ready and needs no allocation.
    ///
    /// # Errors
    ///
    /// See the [table](Self#the-outcome).
    ///
    /// # Panics
    ///
    /// If keys or an introspection response are awaited outside of a Tokio runtime with time enabled.
    pub fn validate(&self, token: &str) -> Validating {
        self.validate_presented(token.as_bytes(), Presented::default())
    }

    /// Validates the token of a request, as [`TokenValidatorLayer`](crate::TokenValidatorLayer) does. It changes
    /// nothing in the request.
    ///
    /// A token that is bound to a certificate is compared with the [`ClientCertificate`](super::ClientCertificate) in the
    /// request's extensions. One that is bound to a key needs a proof for this request, which is then used up. Only the layer
    /// tells the caller its next nonce with a good response.
    ///
    /// # Errors
    ///
    /// See the [table](Self#the-outcome). `MissingIdentity`, if the request has no credentials, or those of another scheme.
    ///
    /// # Panics
    ///
    /// As [`validate`](Self::validate).
    pub fn validate_request<B>(&self, request: &Request<B>) -> Validating {
        self.check(request).validating
    }

    /// The validation of a request, and what its response needs.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Checked {
        let credentials = credentials(request.headers(), self.accepts_dpop());
        let (used, token) = match credentials {
            Ok(credentials) => credentials,
            Err(error) => return self.refuse(error, Scheme::Bearer),
        };
        let presented = Presented::over(request.extensions().get().copied());
        match used {
            Scheme::Bearer => Checked {
                validating: self.validate_presented(token, presented),
                used,
                next_nonce: None,
            },
            Scheme::Dpop => self.check_proof(request, token, presented),
        }
    }

    #[cfg(feature = "dpop")]
    fn check_proof<B>(&self, request: &Request<B>, token: &[u8], presented: Presented) -> Checked {
        let used = Scheme::Dpop;
        let Ok(token) = str::from_utf8(token) else {
            return self.refuse(malformed(), used);
        };
        let Some(verifier) = &self.inner.dpop else {
            return self.refuse(not_active(), used);
        };
        let presentation = Presentation {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            token,
        };
        match verifier.verify(&presentation, self.inner.clock.now()) {
            Ok(Verified { proof, next_nonce }) => {
                let presented = presented.with_proof(proof);
                Checked {
                    validating: self.validate_presented(token.as_bytes(), presented),
                    used,
                    next_nonce: next_nonce.map(Box::new),
                }
            }
            Err(error) => self.refuse(error, used),
        }
    }

    #[cfg(not(feature = "dpop"))]
    fn check_proof<B>(&self, _: &Request<B>, _: &[u8], _: Presented) -> Checked {
        self.refuse(not_active(), Scheme::Bearer)
    }

    /// Whether tokens under the scheme `DPoP` are looked at.
    pub(super) fn accepts_dpop(&self) -> bool {
        #[cfg(feature = "dpop")]
        return self.inner.dpop.is_some();
        #[cfg(not(feature = "dpop"))]
        false
    }

    fn refuse(&self, error: AuthError, used: Scheme) -> Checked {
        Checked {
            validating: Validating::ready(Err(self.inner.refused(error, used))),
            used,
            next_nonce: None,
        }
    }

    fn validate_presented(&self, token: &[u8], presented: Presented) -> Validating {
        if let Err(error) = self.inner.check_policy(&presented) {
            return Validating::ready(Err(self.inner.refused(error, presented.scheme())));
        }
        if let Some(validated) = self.inner.remembered(token) {
            return self.inner.conclude(Ok(validated), &presented);
        }
        let Ok(token) = str::from_utf8(token) else {
            return self.inner.conclude(Err(malformed()), &presented);
        };
        match self.inner.validate_now(token) {
            Some(outcome) => self.inner.conclude(outcome, &presented),
            None => {
                let inner = Arc::clone(&self.inner);
                let token = Zeroizing::new(token.to_owned());
                let reading = Reading::now();
                Validating::pending(async move {
                    let outcome = inner.validate_waiting(&token, reading).await;
                    inner.conclude(outcome, &presented).await
                })
            }
        }
    }

    /// Completes the error of an outgoing request with this validator's challenge: `realm`, `resource_metadata`
    /// (RFC 9728 §5.1) and `scope`, so that its [response](AuthError::to_response) tells the caller where to log in.
    ///
    /// An error that has a challenge keeps it. [`TokenValidatorLayer`](crate::TokenValidatorLayer) completes the responses
    /// of the service beneath it, so this is for responses that are made elsewhere.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::header::WWW_AUTHENTICATE;
    /// use tower_identity::{AuthError, AuthErrorKind, KeySet, TokenValidator};
    ///
    /// # let keys = r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;
    /// let keys = KeySet::from_json(keys)?;
    /// let issuer = "https://issuer.example.com";
    /// let validator = TokenValidator::builder_with_keys(issuer, keys)
    ///     .audience("https://gateway.example.com")
    ///     .resource("https://gateway.example.com")
    ///     .build()?;
    ///
    /// let message = "the user has no token of this provider";
    /// let error = AuthError::new(AuthErrorKind::MissingToken, message);
    /// let response = validator.challenge(error).to_response::<Bytes>();
    /// let challenge = response.headers()[WWW_AUTHENTICATE].to_str()?;
    /// assert!(challenge.contains("resource_metadata="));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn challenge(&self, error: AuthError) -> AuthError {
        self.challenge_of(error, Scheme::Bearer)
    }

    /// The same, for a caller that used this scheme.
    pub(super) fn challenge_of(&self, error: AuthError, used: Scheme) -> AuthError {
        if error.challenge().is_some() {
            return error;
        }
        self.inner.challenge.added_to(error, used)
    }

    /// The metadata service for the configured [`resource`](TokenValidatorBuilder::resource), if there is one.
    pub fn resource_metadata(&self) -> Option<ProtectedResourceMetadata> {
        self.inner.metadata.clone()
    }
}

impl fmt::Debug for TokenValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidator")
            .field("issuers", &self.inner.issuer_names())
            .field("introspection", &self.inner.introspection)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn issuer_names(&self) -> Vec<&str> {
        let issuers = self.issuers.iter();
        issuers.map(|issuer| issuer.id.as_str()).collect()
    }

    fn refused(&self, error: AuthError, used: Scheme) -> AuthError {
        tracing::debug!(kind = ?error.kind(), error = error.in_event(), "a caller was refused");
        self.challenge.added_to(error, used)
    }
}

/// A validation, and what the response to its request needs.
pub(super) struct Checked {
    pub(super) validating: Validating,
    /// The scheme that the caller used.
    pub(super) used: Scheme,
    /// The nonce that the caller should use from now on.
    pub(super) next_nonce: Option<Box<HeaderValue>>,
}

#[derive(Clone, Copy, PartialEq)]
enum LoginRequired {
    Refused,
    Admitted,
}

#[cold]
fn malformed() -> AuthError {
    rejected("the token is malformed")
}

#[cold]
fn not_active() -> AuthError {
    rejected("the token is not active")
}

/// The bearer reads `description`, which holds nothing of the token.
#[cold]
pub(super) fn rejected(description: &'static str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        Cow::Owned(format!("the caller was refused: {description}")),
    )
    .with_description(description)
}
