use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL},
};
use http_body_util::Full;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::aws_lc,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    clock::Clock,
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind, BuildError},
    oauth::http_client::{Answer, HttpClient, parse_url},
    runtime::Mutex,
};

const MAX_KEYS: usize = 100;
const TIME_LIMIT: Duration = Duration::from_secs(10);
const DEBOUNCE: Duration = Duration::from_secs(10);
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(60 * 60);
const MIN_MAX_AGE: Duration = Duration::from_secs(5 * 60);
const LONGEST_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The public keys of an issuer (RFC 7517 §5) that can verify a token.
///
/// With a key set, a [`TokenValidator`](crate::TokenValidator) needs no connection to
/// the issuer, for example in a test:
///
/// ```
/// use tower_identity::{KeySet, TokenValidator};
///
/// let keys = KeySet::from_json(
///     r#"{ "keys": [{
///         "kty": "OKP",
///         "crv": "Ed25519",
///         "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
///     }] }"#,
/// )?;
/// let issuer = "https://issuer.example.com";
/// let validator = TokenValidator::builder_with_keys(issuer, keys)
///     .audience("https://gateway.example.com")
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A key that cannot verify a token is left out: a key whose use is not signatures, and
/// a key of another algorithm or type than RS256 to RS512, PS256 to PS512, ES256, ES384
/// and EdDSA with Ed25519. In particular, symmetric keys are left out. A key with an
/// `alg` verifies that algorithm alone. A key without one verifies the algorithms of its
/// type and curve.
#[derive(Clone)]
pub struct KeySet {
    keys: Arc<[Key]>,
}

impl KeySet {
    /// Reads a JSON Web Key Set.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `json` is not a key set, has more than 100 keys, or has no key that can verify a token.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, BuildError> {
        Self::parse(json.as_ref()).map_err(|fault| BuildError::of("KeySet", "json", fault))
    }

    /// `serde_json` quotes the text in its errors, so they go no further.
    fn parse(json: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Keys {
            keys: Vec<Value>,
        }

        let Keys { keys } =
            serde_json::from_slice(json).map_err(|_| "is not a JSON Web Key Set (RFC 7517 §5)")?;
        if keys.len() > MAX_KEYS {
            return Err("has more than 100 keys");
        }
        let keys: Arc<[Key]> = keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("has no key that can verify a token");
        }
        Ok(Self { keys })
    }

    /// The outcome for a signature. Newer keys may change `Unknown`.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        key_id: Option<&str>,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> Verification {
        let mut named = false;
        for key in self.keys.iter() {
            let is_candidate = key_id.is_none() || key.id.as_deref() == key_id;
            if !is_candidate {
                continue;
            }
            named |= key_id.is_some();
            if key.algorithms.contains(&algorithm) && key.verify(algorithm, message, signature) {
                return Verification::Good;
            }
        }
        if named {
            Verification::Bad
        } else {
            Verification::Unknown
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_deref());
        f.debug_list().entries(ids).finish()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    Good,
    /// The key that the token names says no.
    Bad,
    /// The token names a key that is not in the set, or none, and no key fits.
    Unknown,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    /// `None` for a key that cannot verify a token here.
    fn read(key: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let common = &jwk.common;
        let is_for_signatures = common
            .public_key_use
            .as_ref()
            .is_none_or(|key_use| *key_use == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !is_for_signatures {
            return None;
        }
        let mut algorithms = algorithms(&jwk.algorithm)?.to_vec();
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: common.key_id.clone(),
            algorithms,
            key: DecodingKey::from_jwk(&jwk).ok()?,
        })
    }

    /// With aws-lc by name: `jsonwebtoken::decode` would use, and fix, the provider of the whole process.
    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &Vec<u8>) -> bool {
        (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&algorithm, &self.key)
            .is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }
}

/// The algorithms that a key of this type and curve can verify.
fn algorithms(parameters: &AlgorithmParameters) -> Option<&'static [Algorithm]> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};

    match parameters {
        AlgorithmParameters::RSA(_) => Some(&[RS256, RS384, RS512, PS256, PS384, PS512]),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(&[ES256]),
            EllipticCurve::P384 => Some(&[ES384]),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Some(&[EdDSA])
        }
        _ => None,
    }
}

/// The keys of one issuer, kept up to date, or given once.
pub(super) enum Keys {
    Given(KeySet),
    Issuer(IssuerKeys),
}

impl Keys {
    /// The keys that are known, without waiting. It sees to it that they are renewed.
    pub(super) fn known(&self) -> Option<KeySet> {
        match self {
            Self::Given(keys) => Some(keys.clone()),
            Self::Issuer(keys) => keys.known(),
        }
    }

    /// The keys, fetched if none is known.
    pub(super) async fn first(&self) -> Result<KeySet, AuthError> {
        match self {
            Self::Given(keys) => Ok(keys.clone()),
            Self::Issuer(keys) => keys.fetch().await,
        }
    }

    /// Newer keys than `seen`, which lack one that a token names. `None`, where it is too early to ask again.
    pub(super) async fn newer_than(&self, seen: &KeySet) -> Result<Option<KeySet>, AuthError> {
        match self {
            Self::Given(_) => Ok(None),
            Self::Issuer(keys) => keys.newer_than(seen).await,
        }
    }
}

/// Whether metadata can be found by an issuer's identifier. The error is a sentence whose subject is the identifier.
pub(super) fn check_issuer(issuer: &str, insecure: bool) -> Result<(), &'static str> {
    let (uri, _) = parse_url(issuer, insecure)?;
    if uri.query().is_some() {
        return Err("has a query, which an issuer's identifier cannot have (RFC 8414 §2)");
    }
    Ok(())
}

pub(super) struct IssuerKeys {
    fetcher: Arc<Fetcher>,
    /// Fetches once at a time, early, and with back-off. Its keys age out.
    cache: CredentialCache<KeySet>,
    key: CacheKey,
    /// When an unknown key last led to a fetch.
    sought: Mutex<Option<Instant>>,
    clock: Arc<dyn Clock>,
}

struct Fetcher {
    issuer: String,
    insecure: bool,
    client: HttpClient,
    /// The keys that were fetched last. They do not age out.
    latest: ArcSwapOption<KeySet>,
}

impl IssuerKeys {
    /// For an issuer that [may be one](check_issuer).
    pub(super) fn new(
        issuer: &str,
        insecure: bool,
        client: HttpClient,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            fetcher: Arc::new(Fetcher {
                issuer: issuer.to_owned(),
                insecure,
                client,
                latest: ArcSwapOption::empty(),
            }),
            cache: CredentialCache::builder()
                .capacity(16)
                .clock(Arc::clone(&clock))
                .make(),
            key: CacheScope::new("jwks").key_for_client(),
            sought: Mutex::new(None),
            clock,
        }
    }

    fn known(&self) -> Option<KeySet> {
        if let Ok(Some(keys)) = self.cache.lookup(&self.key, None) {
            return Some(keys);
        }
        let latest = self.fetcher.latest.load_full()?;
        // Not awaited: the fetch goes on by itself, and the latest keys serve until it is done.
        drop(self.fetch());
        Some(KeySet::clone(&latest))
    }

    async fn newer_than(&self, seen: &KeySet) -> Result<Option<KeySet>, AuthError> {
        let is_seen = |keys: &KeySet| Arc::ptr_eq(&keys.keys, &seen.keys);
        self.seek(is_seen);
        let keys = self.fetch().await?;
        Ok(Some(keys).filter(|keys| !is_seen(keys)))
    }

    /// Drops the keys that were seen, at most once in 10 s. The lock is held until they are gone, because a caller that
    /// came meanwhile would take them for the newest.
    fn seek(&self, is_seen: impl FnOnce(&KeySet) -> bool) {
        let now = self.clock.monotonic();
        let mut sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        if sought.is_none_or(|last| now.saturating_duration_since(last) >= DEBOUNCE) {
            *sought = Some(now);
            self.cache.invalidate(&self.key, is_seen);
        }
    }

    /// The cached keys, unless they are about to age out or were invalidated: then those of the one fetch.
    fn fetch(&self) -> impl Future<Output = Result<KeySet, AuthError>> + use<> {
        let fetcher = Arc::clone(&self.fetcher);
        self.cache.obtain(self.key, None, move || async move {
            let fetched = fetcher.fetch().await;
            if let Err(error) = &fetched {
                tracing::warn!(%error, "the issuer's keys could not be fetched");
            }
            fetched
        })
    }
}

impl Fetcher {
    async fn fetch(&self) -> Result<Obtained<KeySet>, AuthError> {
        let uri = self.discover().await?;
        let answer = self.ask(uri).await?;
        if answer.status != StatusCode::OK {
            return Err(self.unavailable(format!(
                "answered {} instead of its key set",
                answer.status.as_u16()
            )));
        }
        let keys = KeySet::parse(&answer.body)
            .map_err(|fault| self.unavailable(format!("has a key set that {fault}")))?;
        tracing::debug!(issuer = self.issuer, ?keys, "fetched the issuer's keys");
        self.latest.store(Some(Arc::new(keys.clone())));
        Ok(Obtained::new(keys).expires_in(max_age(&answer.headers)))
    }

    /// Where the key set is.
    async fn discover(&self) -> Result<Uri, AuthError> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }

        let mut answer = self.ask(self.well_known(openid_configuration)?).await?;
        if answer.status.is_client_error() {
            answer = self.ask(self.well_known(authorization_server)?).await?;
        }
        if answer.status != StatusCode::OK {
            return Err(self.unavailable(format!(
                "answered {} instead of its metadata",
                answer.status.as_u16()
            )));
        }
        let metadata: Metadata = serde_json::from_slice(&answer.body).map_err(|_| {
            self.unavailable("has no metadata of an issuer (OIDC Discovery §3, RFC 8414 §2)")
        })?;
        if metadata.issuer != self.issuer {
            return Err(self.unavailable(
                "has the metadata of another issuer (RFC 8414 §3.3); configure the `issuer` as its metadata has it",
            ));
        }
        match parse_url(&metadata.jwks_uri, self.insecure) {
            Ok((uri, _)) => Ok(uri),
            Err(fault) => Err(self.unavailable(format!("names a `jwks_uri` that {fault}"))),
        }
    }

    fn well_known(&self, path: fn(&str, &str) -> String) -> Result<Uri, AuthError> {
        let issuer = self.issuer.trim_end_matches('/');
        let authority = issuer.find("://").map_or(0, |scheme| scheme + 3);
        let path_at = issuer
            .get(authority..)
            .and_then(|rest| rest.find('/'))
            .map_or(issuer.len(), |slash| authority + slash);
        let (host, issuer_path) = issuer.split_at(path_at);
        path(host, issuer_path)
            .parse()
            .map_err(|_| self.unavailable("has no metadata, because its name makes no URL"))
    }

    async fn ask(&self, uri: Uri) -> Result<Answer, AuthError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.client.call(request, TIME_LIMIT).await;
        answer.map_err(|failure| failure.into_error(TIME_LIMIT, |fault| self.unavailable(fault)))
    }

    #[cold]
    fn unavailable(&self, fault: impl fmt::Display) -> AuthError {
        AuthError::new(
            AuthErrorKind::Unavailable,
            format!(
                "the keys of the issuer {} are not available: it {fault}",
                self.issuer
            ),
        )
    }
}

/// OIDC Discovery §4: behind the issuer's path.
fn openid_configuration(host: &str, path: &str) -> String {
    format!("{host}{path}/.well-known/openid-configuration")
}

/// RFC 8414 §3.1: between host and path.
fn authorization_server(host: &str, path: &str) -> String {
    format!("{host}/.well-known/oauth-authorization-server{path}")
}

fn max_age(headers: &HeaderMap) -> Duration {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().strip_prefix("max-age="))
        .find_map(|seconds| seconds.parse().ok())
        .map_or(DEFAULT_MAX_AGE, Duration::from_secs)
        .clamp(MIN_MAX_AGE, LONGEST_MAX_AGE)
}
