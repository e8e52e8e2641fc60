use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderValue, Request};
use serde_json::{Map, Value};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    identity::{Identity, SameUser},
    oauth::{
        private_key_jwt::{operating_system, unique},
        signing_keys::SigningKeys,
        unverified_jwt::{decode_object, expiration},
    },
    outgoing::identity::HealthCheck,
    secret::{AccessToken, Fingerprint},
};

use super::{
    authenticating::Authenticating, issued::no_identity, placement::Placement, strategy::Strategy,
};

const LIFETIME: Duration = Duration::from_secs(60);
const LONGEST_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A larger header is refused by many servers.
const MAX_TOKEN: usize = 8 * 1024;

/// The claims that the strategy sets itself.
const OWN_CLAIMS: [&str; 8] = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "idp"];

/// Sends a statement of who the user is, signed by this gateway, to a backend that trusts the gateway.
///
/// Needs the feature `private-key-jwt`.
///
/// The statement is a JWT for one user and one audience. A backend verifies it with the keys that
/// [`SigningKeys::jwks`](crate::oauth::SigningKeys::jwks) publishes, as it would verify the token of any issuer.
///
/// ```
/// use tower_identity::{
///     Secret, SignedIdentity,
///     oauth::{SigningAlgorithm, SigningKeys},
/// };
///
/// # fn example(pem: Secret) -> Result<(), tower_identity::BuildError> {
/// let keys = SigningKeys::new("2026-01", SigningAlgorithm::Es256, &pem)?;
/// let strategy = SignedIdentity::builder(
///     "https://gateway.example.com",
///     "https://mcp.example.com",
///     keys.clone(),
/// )
/// .claims(["email", "groups"])
/// .build()?;
/// let jwks = keys.jwks(); // a Tower service, for the path of the JWKS
/// # Ok(())
/// # }
/// ```
///
/// # Claims
///
/// | claim | value |
/// | --- | --- |
/// | `iss` | this gateway |
/// | `sub` | the user's subject |
/// | `idp` | the issuer that the subject belongs to, if the identity has one. Two issuers may use the same `sub` |
/// | `aud` | the backend |
/// | `iat`, `exp` | now, and 60 s later, but not after the user's token has expired |
/// | `jti` | 128 random bits |
/// | [listed claims](SignedIdentityBuilder::claims) | as in the user's token |
///
/// A statement is cached for its user, and a new one is made before it expires (see [`CredentialCache`]). A health check
/// passes without one. Clones are cheap and share their state.
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`Expired`](AuthErrorKind::Expired): the user's token has expired.
/// - [`InsufficientScope`](AuthErrorKind::InsufficientScope): the user's token lacks a listed claim.
/// - [`Configuration`](AuthErrorKind::Configuration): the statement has more than 8 KiB, or cannot be signed.
/// - [`Unavailable`](AuthErrorKind::Unavailable): the random source failed.
#[derive(Clone)]
pub struct SignedIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: String,
    audience: String,
    claims: Vec<String>,
    keys: SigningKeys,
    lifetime: Duration,
    placement: Placement,
    scope: CacheScope,
    cache: CredentialCache<Statement>,
    clock: Arc<dyn Clock>,
}

/// A signed statement. It keeps no claims beside those in the JWT, so that a cache hit reads no further memory.
#[derive(Clone)]
pub(crate) struct Statement {
    value: HeaderValue,
    user: SameUser,
}

impl SignedIdentity {
    /// Creates a builder for statements of the gateway `issuer` for the backend `audience`, signed with the current one of
    /// `keys`.
    pub fn builder(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        keys: SigningKeys,
    ) -> SignedIdentityBuilder {
        SignedIdentityBuilder::new(issuer, audience, Some(keys))
    }
}

impl<B: Send + 'static> Strategy<B> for SignedIdentity {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let inner = &self.inner;
        let identity = request.extensions().get::<Identity>();
        if HealthCheck::is_marked(request.extensions(), identity) {
            return Authenticating::done();
        }
        let Some(identity) = identity else {
            return no_identity().into();
        };
        let key = inner.key(identity);
        match inner.cache.lookup(&key, expiration(identity.claims())) {
            Ok(Some(statement)) if inner.is_of(&statement, identity) => {
                inner.placement.set(request.headers_mut(), statement.value);
                return Authenticating::done();
            }
            Ok(_) => {}
            Err(error) => return error.into(),
        }
        self.state(key, identity.clone())
    }

    fn name(&self) -> &'static str {
        "signed_identity"
    }
}

impl SignedIdentity {
    #[cold]
    fn state<B: Send + 'static>(&self, key: CacheKey, identity: Identity) -> Authenticating<B> {
        let inner = Arc::clone(&self.inner);
        Authenticating::pending(move |mut request: Request<B>| async move {
            let end = expiration(identity.claims());
            let (signing, user) = (Arc::clone(&inner), identity.clone());
            let sign = || async move { signing.sign(&user).await };
            let mut statement = inner.cache.obtain(key, end, sign).await?;
            if !inner.is_of(&statement, &identity) {
                // The same token with other claims, which are not what is cached for it.
                statement = inner.sign(&identity).await?.into_credential();
            }
            inner.placement.set(request.headers_mut(), statement.value);
            Ok(request)
        })
    }
}

impl Inner {
    /// The key of the user's token, or of the user if there is none. It allocates nothing.
    fn key(&self, identity: &Identity) -> CacheKey {
        self.scope.key(match identity.token() {
            Some(token) => token.fingerprint(),
            None => Fingerprint::of([
                b"user".as_slice(),
                identity.issuer().unwrap_or_default().as_bytes(),
                identity.subject().as_bytes(),
            ]),
        })
    }

    /// Whether a statement says what the identity says.
    fn is_of(&self, statement: &Statement, identity: &Identity) -> bool {
        statement.user.is_for_certain(identity) || self.says_of(statement, identity)
    }

    #[cold]
    fn says_of(&self, statement: &Statement, identity: &Identity) -> bool {
        let Some(claims) = claims_in(&statement.value) else {
            return false;
        };
        let said = |claim: &str| claims.get(claim);
        said("sub").and_then(Value::as_str) == Some(identity.subject())
            && said("idp").and_then(Value::as_str) == identity.issuer()
            && self
                .claims
                .iter()
                .all(|claim| said(claim) == identity.claims().get(claim))
    }

    async fn sign(&self, identity: &Identity) -> Result<Obtained<Statement>, AuthError> {
        let issued_at = self.clock.now();
        let mut end = issued_at.checked_add(self.lifetime).unwrap_or(issued_at);
        if let Some(users) = expiration(identity.claims()) {
            end = end.min(users);
        }
        let seconds = |time: std::time::SystemTime| {
            Value::from(
                time.duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
            )
        };
        let own: [(&str, Value); 6] = [
            ("iss", self.issuer.as_str().into()),
            ("sub", identity.subject().into()),
            ("aud", self.audience.as_str().into()),
            ("iat", seconds(issued_at)),
            ("exp", seconds(end)),
            ("jti", unique(&operating_system)?.into()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let mut claims: Map<_, _> = own.into_iter().collect();
        if let Some(issuer) = identity.issuer() {
            claims.insert("idp".to_owned(), issuer.into());
        }
        for name in &self.claims {
            let value = identity.claims().get(name).filter(|value| !value.is_null());
            let value = value.ok_or_else(|| missing(name))?;
            claims.insert(name.clone(), value.clone());
        }
        let token = self.keys.sign(claims).await?;
        if token.len() > MAX_TOKEN {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the signed identity has more than 8 KiB, which few servers accept in a header; list fewer claims",
            ));
        }
        let value = AccessToken::from_bytes(token.as_bytes())
            .and_then(|token| self.placement.value(&token))
            .map_err(|error| {
                AuthError::new(
                    AuthErrorKind::Configuration,
                    "the signed identity cannot be sent in its header",
                )
                .with_source(error)
            })?;
        let statement = Statement {
            value,
            user: SameUser::of(identity),
        };
        Ok(Obtained::new(statement).cloned_under_lock().expires_at(end))
    }
}

/// The claims of the JWT at the end of a header's value.
fn claims_in(value: &HeaderValue) -> Option<Map<String, Value>> {
    let (signed, _signature) = value.to_str().ok()?.rsplit_once('.')?;
    let (_header, claims) = signed.rsplit_once('.')?;
    decode_object(claims)
}

#[cold]
fn missing(claim: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::InsufficientScope,
        format!(
            "the user's token has no claim `{}`, which the backend wants to know; have the issuer add it to its tokens",
            claim.escape_debug()
        ),
    )
}

impl fmt::Debug for SignedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIdentity")
            .field("issuer", &self.inner.issuer)
            .field("audience", &self.inner.audience)
            .field("claims", &self.inner.claims)
            .finish_non_exhaustive()
    }
}

/// Builds a [`SignedIdentity`].
///
/// Needs the feature `private-key-jwt`.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before `build`"]
pub struct SignedIdentityBuilder {
    issuer: String,
    audience: String,
    keys: Option<SigningKeys>,
    claims: Vec<String>,
    lifetime: Duration,
    placement: Placement,
    cache: Option<CredentialCache<Statement>>,
    clock: Arc<dyn Clock>,
}

impl SignedIdentityBuilder {
    /// Creates the builder. Keys that could not be read are reported by `build`.
    pub(crate) fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        keys: Option<SigningKeys>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys,
            claims: Vec::new(),
            lifetime: LIFETIME,
            placement: Placement::bearer(),
            cache: None,
            clock: DefaultClock::get(),
        }
    }

    /// Sets the cache for the statements, which several strategies can share.
    #[cfg(feature = "config")]
    pub(crate) fn cache(mut self, cache: CredentialCache<Statement>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Sets the claims of the user's token that the statement repeats, beside `sub`. By default there are none.
    /// Each of them is required.
    pub fn claims<I>(mut self, claims: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.claims = claims.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long a statement is valid. The default is 60 s, and the longest is an hour.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the header that the statement is sent in. The default is `Authorization: Bearer …`.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the strategy.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `issuer` or `audience` is blank.
    /// - `claims` has a blank name, one that the strategy sets itself, or one twice.
    /// - `lifetime` is less than a second, or more than an hour.
    pub fn build(self) -> Result<SignedIdentity, BuildError> {
        let mut faults = Faults::new("SignedIdentity");
        faults.need_text("issuer", &self.issuer);
        faults.need_text("audience", &self.audience);
        for (index, claim) in self.claims.iter().enumerate() {
            let setting = format!("claims[{index}]");
            if claim.trim().is_empty() {
                faults.add(setting, "is empty, give the name of a claim");
            } else if OWN_CLAIMS.contains(&claim.as_str()) {
                faults.add(
                    setting,
                    "is a claim that the strategy sets itself, leave it out",
                );
            } else if self
                .claims
                .iter()
                .take(index)
                .any(|earlier| earlier == claim)
            {
                faults.add(setting, "is there twice, remove one of the two");
            }
        }
        if self.lifetime < Duration::from_secs(1) || self.lifetime > LONGEST_LIFETIME {
            faults.add(
                "lifetime",
                "is not between a second and an hour; 60 s is the default",
            );
        }
        if self.keys.is_none() {
            faults.add("keys", "is missing, give at least one");
        }
        let keys = faults.or(self.keys)?;
        let scope = CacheScope::new("signed identity")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("lifetime", self.lifetime.as_nanos().to_be_bytes());
        let claims = self.claims.iter();
        let scope = claims.fold(scope, |scope, claim| scope.field("claim", claim));
        let scope = keys.describe(self.placement.describe(scope));
        let own_cache = || CredentialCache::builder().clock(self.clock.clone()).make();
        Ok(SignedIdentity {
            inner: Arc::new(Inner {
                cache: self.cache.unwrap_or_else(own_cache),
                issuer: self.issuer,
                audience: self.audience,
                claims: self.claims,
                keys,
                lifetime: self.lifetime,
                placement: self.placement,
                scope,
                clock: self.clock,
            }),
        })
    }
}
