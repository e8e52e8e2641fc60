//! [`TokenValidator`]: from a bearer token to an [`Identity`].
//!
//! ```no_run
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::ServiceBuilder;
//! use tower_identity::{MemoryStore, TokenValidator, TokenValidatorLayer, UpstreamTokens, incoming::Provider};
//!
//! # fn example(providers: Vec<Provider>) -> Result<(), tower_identity::AuthError> {
//! # let jwks_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//! # let app = tower::service_fn(async |_: Request<()>| {
//! #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
//! # });
//! let validator = TokenValidator::builder("https://issuer.example.com", jwks_client)
//!     .audience("https://gateway.example.com")
//!     .resource("https://gateway.example.com/mcp")
//!     .upstream_tokens(UpstreamTokens::new(MemoryStore::new(), providers))
//!     .build()?;
//! let metadata = validator.resource_metadata(); // a service for its own path, beside the app
//! let app = ServiceBuilder::new().layer(TokenValidatorLayer::new(validator)).service(app);
//! # Ok(())
//! # }
//! ```
//!
//! # What is checked
//!
//! | of | is required |
//! | --- | --- |
//! | the token | at most 16 KiB of visible ASCII |
//! | `alg` | RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA, and one that the key is for; never `none`, never HS |
//! | `kid` | a key of the issuer; without one, every key that fits is tried |
//! | `typ` | absent, `JWT` or `at+jwt` (RFC 9068 §2.1), in any case; with [`require_at_jwt`](TokenValidatorBuilder::require_at_jwt) the last alone |
//! | `crit` | absent: no extension is known here (RFC 7515 §4.1.11) |
//! | `jku`, `x5u`, `jwk`, `x5c` | nothing: they are not read |
//! | `iss` | the issuer, character by character |
//! | `aud` | present, and one of the configured audiences is in it |
//! | `exp` | present, and not passed |
//! | `nbf`, `iat` | where present, not to come |
//! | `sub` | present, and not blank |
//! | `act` | where present, at most 8 nested objects ([`delegation_chain`](super::delegation_chain)) |
//!
//! Times are compared with the injected clock, with a leeway of a minute.
//!
//! A token that is no JWT is asked about at the [introspection endpoint](TokenValidatorBuilder::introspection), if there is
//! one.
//!
//! # What comes of it
//!
//! The identity has the token, its claims without `tsid` (it names the session of the upstream tokens, and is nobody
//! else's business), and `sub`, `iss`, `name` and `email` among them.
//!
//! | what is wrong | [`AuthErrorKind`] | answer |
//! | --- | --- | --- |
//! | the token has expired | `Expired` | 401 `invalid_token` |
//! | anything else about the token | `Rejected` | 401 `invalid_token` |
//! | an upstream provider needs a new log-in | `Rejected` | 401 `invalid_token`, unless [such callers pass](TokenValidatorBuilder::admit_without_upstream_log_in) |
//! | the issuer or the store of upstream tokens cannot be asked, or what it says cannot be used | `Unavailable` | 503 |
//!
//! An upstream provider that merely cannot be asked now keeps nobody out: the request passes, and a strategy that wants
//! its token fails with what went wrong ([`Identity::unavailable_upstream`]), which is 503.
//!
//! The error carries the challenge: [`AuthError::to_response`] is the answer.

use std::{
    borrow::Cow,
    fmt, future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use crate::{
    clock::{Clock, SystemClock},
    credential::http_client::{BoxFuture, HttpClient},
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    secret::AccessToken,
};

use super::{
    challenge::Challenge,
    delegation,
    introspection::IntrospectionEndpoint,
    jwks::{IssuerKeys, KeySet, Keys, Verification},
    metadata::ProtectedResourceMetadata,
    remembered::{Remembered, Validated},
    upstream::{LoadedTokens, UpstreamTokens},
};

const MAX_TOKEN: usize = 16 * 1024;
const LEEWAY: Duration = Duration::from_secs(60);
const SESSION_CLAIM: &str = "tsid";

/// Validates bearer tokens of one issuer, for this resource.
///
/// Cheap to clone (one reference count). See the [module](self) for what it checks, and [`jwks`](super::jwks) for where
/// the keys come from.
#[derive(Clone)]
pub struct TokenValidator {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: String,
    audiences: Vec<String>,
    require_at_jwt: bool,
    leeway: Duration,
    keys: Keys,
    introspection: Option<IntrospectionEndpoint>,
    remembered: Option<Remembered>,
    upstream: Option<UpstreamTokens>,
    log_in_needed: LogInNeeded,
    challenge: Challenge,
    metadata: Option<ProtectedResourceMetadata>,
    clock: Arc<dyn Clock>,
}

impl TokenValidator {
    /// Starts a validator for tokens of the issuer with this identifier, which is a URL: its metadata and keys are found
    /// there, through `client`. Each request uses a clone of it.
    ///
    /// # Security
    ///
    /// The client must not follow redirects: whom they lead to would choose the keys.
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
        TokenValidatorBuilder::new(issuer.into(), Source::Issuer(HttpClient::new(client)))
    }

    /// Starts a validator for tokens of this issuer that are signed with one of these keys. Nothing is fetched.
    pub fn builder_with_keys(issuer: impl Into<String>, keys: KeySet) -> TokenValidatorBuilder {
        TokenValidatorBuilder::new(issuer.into(), Source::Given(keys))
    }

    /// Establishes who it is that came with this token, without its scheme.
    ///
    /// When the answer is at hand, the future is ready and nothing is boxed.
    ///
    /// # Errors
    ///
    /// As the [table](self#what-comes-of-it) says.
    ///
    /// # Panics
    ///
    /// When keys or an introspection have to be waited for outside of a Tokio runtime with time enabled.
    pub fn validate(&self, token: &str) -> Validating {
        match self.inner.validate_now(token) {
            Some(outcome) => self.inner.conclude(outcome),
            None => {
                let inner = Arc::clone(&self.inner);
                let token = Zeroizing::new(token.to_owned());
                Validating::pending(async move {
                    let outcome = inner.validate_waiting(&token).await;
                    inner.conclude(outcome).await
                })
            }
        }
    }

    /// What is answered to a caller without a bearer token, or with a header that holds none.
    pub(super) fn refuse(&self, error: AuthError) -> Validating {
        Validating::ready(Err(self.inner.refused(error)))
    }

    /// The metadata service for the configured [`resource`](TokenValidatorBuilder::resource), if there is one.
    pub fn resource_metadata(&self) -> Option<ProtectedResourceMetadata> {
        self.inner.metadata.clone()
    }
}

impl fmt::Debug for TokenValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidator")
            .field("issuer", &self.inner.issuer)
            .field("audiences", &self.inner.audiences)
            .field("introspection", &self.inner.introspection)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// `None`, when something has to be waited for.
    fn validate_now(&self, token: &str) -> Option<Result<Validated, AuthError>> {
        if token.len() > MAX_TOKEN {
            return Some(Err(rejected("the token is too large")));
        }
        if let Some(remembered) = &self.remembered
            && let Some(validated) = remembered.find(token, &*self.clock)
        {
            return Some(Ok(validated));
        }
        let Some(jwt) = Jwt::parse(token) else {
            return match self.introspection {
                Some(_) => None,
                None => Some(Err(rejected("the token is malformed"))),
            };
        };
        match self.verify(&jwt, &self.keys.known()?) {
            Ok(Verification::Good) => Some(self.accept_jwt(&jwt, token)),
            Ok(Verification::Bad) => Some(Err(not_signed())),
            Ok(Verification::Unknown) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn validate_waiting(&self, token: &str) -> Result<Validated, AuthError> {
        let Some(jwt) = Jwt::parse(token) else {
            return self.introspect(token).await;
        };
        let known = self.keys.known();
        let keys = match &known {
            Some(keys) => keys.clone(),
            None => self.keys.first().await?,
        };
        let mut verification = self.verify(&jwt, &keys)?;
        // Keys that were fetched for this very token are as new as can be.
        if verification == Verification::Unknown
            && known.is_some()
            && let Some(newer) = self.keys.newer_than(&keys).await?
        {
            verification = self.verify(&jwt, &newer)?;
        }
        match verification {
            Verification::Good => self.accept_jwt(&jwt, token),
            Verification::Bad | Verification::Unknown => Err(not_signed()),
        }
    }

    fn verify(&self, jwt: &Jwt<'_>, keys: &KeySet) -> Result<Verification, AuthError> {
        if jwt.header.crit.is_some() {
            return Err(rejected("the token has an extension that is not known"));
        }
        if !self.is_accepted_type(jwt.header.typ.as_deref()) {
            return Err(rejected("the token is of another type"));
        }
        let algorithm = algorithm(&jwt.header.alg).ok_or_else(|| {
            rejected("the token is signed with an algorithm that is not accepted")
        })?;
        Ok(keys.verify(
            algorithm,
            jwt.header.kid.as_deref(),
            jwt.message.as_bytes(),
            &jwt.signature,
        ))
    }

    fn is_accepted_type(&self, typ: Option<&str>) -> bool {
        let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        is("at+jwt")
            || is("application/at+jwt")
            || (!self.require_at_jwt && (typ.is_none() || is("JWT")))
    }

    fn accept_jwt(&self, jwt: &Jwt<'_>, token: &str) -> Result<Validated, AuthError> {
        let claims = decode(jwt.payload)
            .and_then(|claims| serde_json::from_slice::<Map<_, _>>(&claims).ok())
            .ok_or_else(|| rejected("the token is malformed"))?;
        if !claims.contains_key("exp") {
            return Err(rejected("the token has no end"));
        }
        if !claims.contains_key("iss") {
            return Err(rejected("the token does not say who issued it"));
        }
        self.accept(claims, token)
    }

    async fn introspect(&self, token: &str) -> Result<Validated, AuthError> {
        let not_active = || rejected("the token is not active");
        let endpoint = self.introspection.as_ref().ok_or_else(not_active)?;
        // What cannot be a token is not sent to anyone.
        AccessToken::new(token).map_err(|_| rejected("the token is malformed"))?;
        let claims = endpoint.introspect(token, &*self.clock).await?;
        self.accept(claims.ok_or_else(not_active)?, token)
    }

    /// Checks the claims of a token that its issuer vouches for.
    fn accept(&self, mut claims: Map<String, Value>, token: &str) -> Result<Validated, AuthError> {
        let issuer = text(&claims, "iss")?;
        if issuer.is_some_and(|issuer| issuer != self.issuer) {
            return Err(rejected("the token is of another issuer"));
        }
        if !self.is_for_us(claims.get("aud")) {
            return Err(rejected("the token is for another audience"));
        }
        let now = seconds(self.clock.now());
        let leeway = self.leeway.as_secs_f64();
        let expires = time(&claims, "exp")?;
        if expires.is_some_and(|expires| expires + leeway <= now) {
            let error = AuthError::new(AuthErrorKind::Expired, "the caller's token has expired");
            return Err(error.with_description("the token has expired"));
        }
        for name in ["nbf", "iat"] {
            if time(&claims, name)?.is_some_and(|time| time - leeway > now) {
                return Err(rejected("the token is not valid yet"));
            }
        }
        delegation::actors(&claims).map_err(rejected)?;
        let session = match claims.remove(SESSION_CLAIM) {
            None => None,
            Some(Value::String(session)) if !session.is_empty() => Some(session.into()),
            Some(_) => return Err(rejected("the token is malformed")),
        };
        let validated = Validated {
            identity: self.identity(claims, token)?,
            session,
        };
        let expires_at = expires
            .and_then(|expires| Duration::try_from_secs_f64(expires).ok())
            .and_then(|expires| UNIX_EPOCH.checked_add(expires));
        if let (Some(remembered), Some(expires_at)) = (&self.remembered, expires_at) {
            remembered.keep(&validated, expires_at, &*self.clock);
        }
        Ok(validated)
    }

    fn identity(&self, claims: Map<String, Value>, token: &str) -> Result<Identity, AuthError> {
        let subject = text(&claims, "sub")?.unwrap_or_default();
        let mut identity = Identity::builder(subject).issuer(&self.issuer);
        if let Some(name) = claims.get("name").and_then(Value::as_str) {
            identity = identity.name(name);
        }
        if let Some(email) = claims.get("email").and_then(Value::as_str) {
            identity = identity.email(email);
        }
        let token = AccessToken::new(token).map_err(|_| rejected("the token is malformed"))?;
        identity
            .claims(claims)
            .token(token)
            .build()
            .map_err(|_| rejected("the token has no subject"))
    }

    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        let is_ours = |audience: &Value| {
            let audience = audience.as_str();
            audience.is_some_and(|audience| self.audiences.iter().any(|ours| ours == audience))
        };
        match audience {
            Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
            Some(audience) => is_ours(audience),
            None => false,
        }
    }

    /// Adds the upstream tokens where there are any to load, else the challenge where one is due.
    fn conclude(self: &Arc<Self>, outcome: Result<Validated, AuthError>) -> Validating {
        let Validated { identity, session } = match outcome {
            Ok(validated) => validated,
            Err(error) => return Validating::ready(Err(self.refused(error))),
        };
        let (Some(upstream), Some(session)) = (&self.upstream, session) else {
            return Validating::ready(Ok(identity));
        };
        let loading = upstream.load(&session);
        let inner = Arc::clone(self);
        Validating::pending(async move {
            let loaded = loading.await;
            loaded
                .and_then(|loaded| inner.with_upstream(identity, loaded))
                .map_err(|error| inner.refused(error))
        })
    }

    fn with_upstream(
        &self,
        identity: Identity,
        loaded: LoadedTokens,
    ) -> Result<Identity, AuthError> {
        if self.log_in_needed == LogInNeeded::Refused
            && let Some(provider) = loaded.log_in_needed().first()
        {
            return Err(AuthError::new(
                AuthErrorKind::Rejected,
                "the caller has to log in again, because an upstream provider's tokens have ended",
            )
            .with_provider(provider));
        }
        let mut identity = identity.into_builder();
        for (provider, error) in loaded.failed() {
            identity = identity.unavailable_upstream(provider, error.clone());
        }
        for (provider, token) in loaded.into_tokens() {
            identity = identity.upstream(provider, token);
        }
        identity.build().map_err(|error| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "the store of upstream tokens has a provider without a name",
            )
            .with_source(error)
        })
    }

    fn refused(&self, error: AuthError) -> AuthError {
        tracing::debug!(kind = ?error.kind(), %error, "a caller was refused");
        self.challenge.added_to(error)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum LogInNeeded {
    Refused,
    Admitted,
}

/// Builds a [`TokenValidator`].
#[must_use = "nothing is checked before `build`"]
pub struct TokenValidatorBuilder {
    issuer: String,
    source: Source,
    insecure: bool,
    audiences: Vec<String>,
    require_at_jwt: bool,
    leeway: Duration,
    introspection: Option<IntrospectionEndpoint>,
    remembered: usize,
    upstream: Option<UpstreamTokens>,
    log_in_needed: LogInNeeded,
    realm: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
    clock: Arc<dyn Clock>,
}

enum Source {
    Issuer(HttpClient),
    Given(KeySet),
}

impl TokenValidatorBuilder {
    fn new(issuer: String, source: Source) -> Self {
        Self {
            issuer,
            source,
            insecure: false,
            audiences: Vec::new(),
            require_at_jwt: false,
            leeway: LEEWAY,
            introspection: None,
            remembered: 0,
            upstream: None,
            log_in_needed: LogInNeeded::Refused,
            realm: None,
            resource: None,
            scopes: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Adds an audience: a token has to be for one of them. At least one is required.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Accepts access tokens alone that say that they are one: `typ` `at+jwt` (RFC 9068 §4).
    pub fn require_at_jwt(mut self) -> Self {
        self.require_at_jwt = true;
        self
    }

    /// Sets by how much clocks may differ. By default a minute.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Has tokens that are no JWT introspected. By default they are refused.
    pub fn introspection(mut self, endpoint: IntrospectionEndpoint) -> Self {
        self.introspection = Some(endpoint);
        self
    }

    /// Remembers up to `capacity` tokens that were good, by their fingerprint, until they expire. By default none.
    ///
    /// # Security
    ///
    /// A remembered token is not checked again: not with the issuer, which may have revoked it, nor with a key that the
    /// issuer may have withdrawn. Use it where tokens live for minutes.
    pub fn remember_tokens(mut self, capacity: usize) -> Self {
        self.remembered = capacity;
        self
    }

    /// Adds the upstream tokens of the session that the token's `tsid` claim names, fresh for each request. A token without
    /// one has no upstream tokens.
    ///
    /// A caller who has to log in again to one of the providers is refused, with 401.
    pub fn upstream_tokens(mut self, upstream: UpstreamTokens) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// Lets a caller pass who has to log in again to some upstream providers, without the tokens of those.
    ///
    /// A strategy that wants one of them then fails with [`MissingToken`](AuthErrorKind::MissingToken).
    pub fn admit_without_upstream_log_in(mut self) -> Self {
        self.log_in_needed = LogInNeeded::Admitted;
        self
    }

    /// Sets the `realm` of the challenge (RFC 9110 §11.5). By default the first audience.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Sets the URL of this resource, by which callers know it (RFC 9728 §1.2).
    ///
    /// The challenge then says where its metadata is, and
    /// [`resource_metadata`](TokenValidator::resource_metadata) serves it.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Sets the scopes that a caller should ask for: in the challenge and in the metadata. They are not required of a token.
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Lets the URLs of the issuer, of its keys and of this resource be plain `http` on any host.
    ///
    /// # Security
    ///
    /// Whoever can change what is on the network can then choose the keys, and be anyone. It is meant for a network that is
    /// itself trusted.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the validator. Nothing is fetched before the first token comes.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when there is no audience, or one that is blank; when the issuer or
    /// the resource is not an absolute `https` URL (or `http` on loopback) without a fragment, and the issuer one without a
    /// query (with given keys, any name of the issuer will do); when a scope is none (RFC 6749 §3.3); when a character of
    /// the challenge cannot be sent.
    pub fn build(self) -> Result<TokenValidator, AuthError> {
        let invalid = |message: &'static str| AuthError::new(AuthErrorKind::Configuration, message);
        let is_blank = |text: &String| text.trim().is_empty();
        let Some(first_audience) = self.audiences.first() else {
            return Err(invalid(
                "a token validator needs an audience; without one, a token for anybody would do",
            ));
        };
        if self.audiences.iter().any(is_blank) || is_blank(&self.issuer) {
            return Err(invalid(
                "the issuer or an audience of a token validator is empty",
            ));
        }
        let is_scope = |scope: &String| {
            let is_scope_character = |byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            !scope.is_empty() && scope.bytes().all(is_scope_character)
        };
        if !self.scopes.iter().all(is_scope) {
            return Err(invalid(
                "a scope is a word of visible ASCII without quotes and backslashes (RFC 6749 §3.3)",
            ));
        }
        let metadata = match &self.resource {
            Some(resource) => Some(ProtectedResourceMetadata::new(
                resource,
                self.insecure,
                &self.issuer,
                &self.scopes,
            )?),
            None => None,
        };
        let metadata_url = metadata.as_ref().map(ProtectedResourceMetadata::url);
        let realm = self.realm.as_ref().unwrap_or(first_audience);
        let challenge = Challenge::new(realm, metadata_url, &self.scopes)?;
        let keys = match self.source {
            Source::Given(keys) => Keys::Given(keys),
            Source::Issuer(client) => Keys::Issuer(IssuerKeys::new(
                &self.issuer,
                self.insecure,
                client,
                Arc::clone(&self.clock),
            )?),
        };
        Ok(TokenValidator {
            inner: Arc::new(Inner {
                issuer: self.issuer,
                audiences: self.audiences,
                require_at_jwt: self.require_at_jwt,
                leeway: self.leeway,
                keys,
                introspection: self.introspection,
                remembered: Some(self.remembered)
                    .filter(|capacity| *capacity > 0)
                    .map(Remembered::new),
                upstream: self.upstream,
                log_in_needed: self.log_in_needed,
                challenge,
                metadata,
                clock: self.clock,
            }),
        })
    }
}

impl fmt::Debug for TokenValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidatorBuilder")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

/// The future of [`TokenValidator::validate`].
#[must_use = "futures do nothing unless polled"]
pub struct Validating {
    state: State,
}

enum State {
    Ready(future::Ready<Result<Identity, AuthError>>),
    Pending(PendingValidation),
}

pub(super) type PendingValidation = BoxFuture<Result<Identity, AuthError>>;

impl Validating {
    fn ready(outcome: Result<Identity, AuthError>) -> Self {
        Self {
            state: State::Ready(future::ready(outcome)),
        }
    }

    fn pending(
        outcome: impl Future<Output = Result<Identity, AuthError>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Pending(Box::pin(outcome)),
        }
    }

    pub(super) fn into_ready(self) -> Result<Result<Identity, AuthError>, PendingValidation> {
        match self.state {
            State::Ready(outcome) => Ok(outcome.into_inner()),
            State::Pending(outcome) => Err(outcome),
        }
    }
}

impl Future for Validating {
    type Output = Result<Identity, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(outcome) => Pin::new(outcome).poll(cx),
            State::Pending(outcome) => outcome.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Validating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Ready(_) => "ready",
            State::Pending(_) => "pending",
        };
        write!(f, "Validating({state})")
    }
}

/// A JWS in its compact form (RFC 7515 §7.1), as it came. Nothing in it is to be believed yet.
struct Jwt<'a> {
    header: Header,
    message: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

/// What is read of a header. What else is in it, a key or its URL above all, is not looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Jwt<'a> {
    /// `None`, when it is no JWT.
    fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            message,
            payload,
            signature: decode(signature)?,
        })
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// The algorithms that a key pair signs with; none where the verifier's key could sign, too.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(rejected("the token is malformed")),
    }
}

/// A `NumericDate` (RFC 7519 §2), in seconds.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(time) => match time.as_f64().filter(|time| time.is_finite()) {
            Some(time) => Ok(Some(time)),
            None => Err(rejected("the token is malformed")),
        },
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

#[cold]
fn not_signed() -> AuthError {
    rejected("the token is not signed with a key of the issuer")
}

/// What is said of the token is for its bearer to read, and holds nothing of it.
#[cold]
pub(super) fn rejected(description: &'static str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        Cow::Owned(format!("the caller was refused: {description}")),
    )
    .with_description(description)
}
