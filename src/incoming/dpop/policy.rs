use std::{fmt, sync::Arc, time::Duration};

use crate::{
    error::{Faults, one_of},
    oauth::SigningAlgorithm,
    upstream::SealingKey,
};

use super::{
    memory::ProofMemory,
    nonces::Nonces,
    public_url::PublicUrl,
    replay::{ProofStore, Replay},
    verifier::Verifier,
};

const WINDOW: Duration = Duration::from_secs(60);
const LONGEST_WINDOW: Duration = Duration::from_secs(600);
const NONCE_LIFETIME: Duration = Duration::from_secs(300);
const LONGEST_NONCE_LIFETIME: Duration = Duration::from_secs(86_400);
const PROOFS: usize = 1 << 18;

/// The rules by which a [`TokenValidator`](crate::TokenValidator) accepts tokens that are bound to a key of the caller, and
/// checks that the caller has the key (DPoP, RFC 9449).
///
/// Needs the features `dpop` and `incoming`.
///
/// Without a policy, a token that is bound to a key (`cnf.jkt`) is always refused. With one, it is accepted under the
/// scheme `DPoP` of the `Authorization` header, together with a `DPoP` header that has a proof for this very request.
///
/// ```
/// use tower_identity::{KeySet, TokenValidator, incoming::DpopPolicy};
///
/// # let keys = r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;
/// let keys = KeySet::from_json(keys)?;
/// let policy = DpopPolicy::new().url("https://gateway.example.com");
/// let issuer = "https://issuer.example.com";
/// let validator = TokenValidator::builder_with_keys(issuer, keys)
///     .audience("https://gateway.example.com")
///     .dpop(policy)
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # What is checked
///
/// | part of the proof | requirement (RFC 9449 §4.3) |
/// | --- | --- |
/// | the header `DPoP` | one, with one JWT of at most 8 KiB |
/// | `typ` | `dpop+jwt` |
/// | `alg` | one of the [algorithms](Self::algorithms). Never `none`, never HS |
/// | `jwk` | a public key of this algorithm, without a private part. RSA keys have 2,048 to 4,096 bits |
/// | `crit` | absent |
/// | the signature | of this key |
/// | `htm` | the method of the request |
/// | `htu` | the URL of the request, see [`url`](Self::url). Query and fragment do not count, and both are brought into the normal form of RFC 3986 §6.2.2 and §6.2.3 |
/// | `iat` | within the [window](Self::window) |
/// | `jti` | a string of 1 to 256 bytes, which no proof of this key had before in the window |
/// | `ath` | the SHA-256 sum of the token |
/// | `nonce` | one of this server, if it [issues nonces](Self::nonces) |
/// | the thumbprint of `jwk` (RFC 7638) | equal to the `cnf.jkt` of the token, in the JWT or in the answer to introspection |
///
/// The proof is checked for each request, also where the token is
/// [remembered](crate::incoming::TokenValidatorBuilder::cache_tokens). It is looked at before the token, and its use is
/// noted after the token was accepted.
///
/// # Which tokens are accepted
///
/// | token | as `Bearer` | as `DPoP`, with its proof |
/// | --- | --- | --- |
/// | bound to a key (`cnf.jkt`) | no | yes |
/// | not bound | yes, without [`require`](Self::require) | no |
///
/// # Answers
///
/// | fault | answer |
/// | --- | --- |
/// | no credentials | 401, with challenges without an error code |
/// | the proof | 401, `DPoP error="invalid_dpop_proof"` |
/// | no nonce, or one that has expired | 401, `DPoP error="use_dpop_nonce"`, and a new one in the header `DPoP-Nonce` |
/// | the token, or another key than the token's | 401, `error="invalid_token"` in the challenge of the scheme that the caller used |
/// | the [store](Self::proof_store) of proofs cannot be asked, or the [memory](Self::proof_memory) is full | 503 |
/// | the [clock](Self#when-the-clock-was-wrong) was wrong, so it is not known whether the proof was used | 503, and a warning that names the clock |
///
/// A caller that used the scheme `DPoP` gets that challenge alone. Any other gets one for each scheme that is accepted, in
/// one header, `Bearer` first. The challenge has `algs`, the accepted algorithms. The metadata of the
/// [resource](crate::incoming::TokenValidatorBuilder::resource) has `dpop_signing_alg_values_supported`, and
/// `dpop_bound_access_tokens_required` (RFC 9728 §2).
///
/// A web page of another origin can read the answer only if the layer for CORS around
/// [`TokenValidatorLayer`](crate::TokenValidatorLayer) allows the headers `Authorization` and `DPoP`, and exposes
/// `WWW-Authenticate` and `DPoP-Nonce`.
///
/// # Security
///
/// - The crate never takes the URL from the `Host` header. A thief who has a token and a proof for another server could
///   choose this header so that the proof fits.
/// - The memory of used proofs belongs to the process, and a restart empties it. A proof that was read on its way can then
///   be used a second time within the window, on this replica, or once on each of several replicas. With a
///   [store](Self::proof_store) it cannot, while the store loses nothing: give a Redis that may fail over the setting
///   [`replicas`](crate::upstream::RedisStoreBuilder::replicas), and one that is limited in memory `noeviction`. [Nonces](Self::nonces) do not prevent a replay.
/// - A clone of a policy shares its memory. Give clones of one policy to validators that answer for the same URL.
/// - A proof does not cover the body and the headers of the request, nor its query.
/// - The caller of this gateway proves the possession of its key to this gateway alone. The layer removes the header
///   `DPoP` from requests that pass. The caller's own token ([`Identity::token`](crate::Identity::token)) is of no use as a
///   bearer token elsewhere, and no strategy sends it as one. [`TokenExchange`](crate::TokenExchange) gets another for it.
///
/// # When the clock was wrong
///
/// A proof that was used is never accepted again, however the clock of this server is set.
///
/// The memory forgets proofs whose window has passed, and remembers the times at which they were made. After the clock was
/// set back, proofs of such a time are refused with 503, and all others are accepted. For example, the clock was an hour
/// ahead for ten minutes, and callers with the same clock sent proofs. Once the clock is right, fresh proofs are accepted
/// at once. An hour later come the ten minutes whose proofs were forgotten, and those are refused. The response's
/// `Retry-After` says for how long.
///
/// A [store](Self::proof_store) remembers proofs by its own clock. A replica whose clock is behind
/// that clock by more than the [window](Self::window) refuses the proofs of callers whose clock is right (401, for their
/// `iat`). By two minutes more, it also refuses those of callers whose clock is as wrong (503).
///
/// A [nonce](Self::nonces) that was made while the clock was ahead is replaced, which costs the caller one more request.
#[derive(Clone)]
#[must_use = "a policy does nothing unless a validator has it"]
pub struct DpopPolicy {
    urls: Vec<String>,
    is_required: bool,
    algorithms: Vec<SigningAlgorithm>,
    window: Duration,
    capacity: usize,
    replay: Replay,
    nonce_keys: Vec<SealingKey>,
    older_nonce_keys: Vec<SealingKey>,
    nonce_lifetime: Option<Duration>,
}

impl DpopPolicy {
    /// Creates a policy with the defaults. The validator's `build` checks the settings.
    pub fn new() -> Self {
        Self {
            urls: Vec::new(),
            is_required: false,
            algorithms: vec![SigningAlgorithm::Es256, SigningAlgorithm::EdDsa],
            window: WINDOW,
            capacity: PROOFS,
            replay: Replay::Memory(Arc::new(ProofMemory::new(PROOFS))),
            nonce_keys: Vec::new(),
            older_nonce_keys: Vec::new(),
            nonce_lifetime: None,
        }
    }

    /// Adds a URL under which callers know this gateway: scheme, host and port. `htu` must be one of these URLs with the
    /// path of the request. By default it is the origin of the
    /// [`resource`](crate::incoming::TokenValidatorBuilder::resource). One of the two is required.
    ///
    /// If the layer sees only a part of the path, the URL has the other part. For example, a proxy, or a nested router of
    /// axum, takes `/api` away from the path: then the URL is `https://gateway.example.com/api`.
    ///
    /// # Security
    ///
    /// With several URLs, a proof for any of them passes. Two routers that take different prefixes away, for example `/a`
    /// and `/b`, therefore need a validator each. Otherwise a proof for `/b/x` passes at `/a/x`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Refuses tokens that are not bound to a key of the caller. By default they are accepted as bearer tokens, so that
    /// callers can change over one by one.
    ///
    /// # Security
    ///
    /// A token that is not bound can be used by whoever steals it. Set this when all callers have changed over, or have the
    /// issuer bind all tokens.
    pub fn require(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// Sets the algorithms that proofs may be signed with. By default ES256 and EdDSA (with Ed25519).
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = SigningAlgorithm>) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// Sets by how much the `iat` of a proof may differ from the validator's clock, into the past and into the future. By
    /// default 60 s, at most 10 minutes.
    ///
    /// A longer window accepts callers whose clocks are further off, and remembers each proof for longer.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many used proofs the process remembers. By default 262,144, which take some 12 MiB when they are all there.
    ///
    /// Each is remembered until the window has passed it. When the memory is full, requests with proofs are refused with
    /// 503: a proof that was pushed out of the memory could be used again. So the capacity must be larger than the number of
    /// requests with proofs in a window. With the defaults this is 4,300 a second.
    pub fn proof_memory(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self.replay = Replay::Memory(Arc::new(ProofMemory::new(capacity)));
        self
    }

    /// Remembers used proofs in a store that all replicas share, for example a [`RedisStore`](crate::RedisStore), in place
    /// of the process's memory.
    ///
    /// Each request with a proof then waits for the store. If the store cannot be asked, the request is refused with 503.
    pub fn proof_store(mut self, store: impl ProofStore + 'static) -> Self {
        self.replay = Replay::Store(Arc::new(store));
        self
    }

    /// Wants a nonce of this server in each proof (RFC 9449 §9), sealed with `key`. By default proofs need no nonce.
    ///
    /// A caller without one gets one, and repeats its request. When half of the [lifetime](Self::nonce_lifetime) has passed,
    /// the caller gets the next nonce with the response, also with a successful one. The server stores nothing. All
    /// replicas with the same key accept each other's nonces.
    ///
    /// # Security
    ///
    /// A nonce shows that the proof was made a short time ago. Without nonces, an attacker who can sign with the caller's
    /// key for a moment can make proofs for later, with an `iat` in the future. A nonce is not a secret, and is good for
    /// any number of proofs, so it does not prevent a replay.
    pub fn nonces(mut self, key: SealingKey) -> Self {
        self.nonce_keys = vec![key];
        self
    }

    /// Adds a key whose nonces are accepted, too. It needs [`nonces`](Self::nonces).
    ///
    /// To replace a key without refusing callers, first add the new key here, on all replicas. Then give the new key to
    /// `nonces` and the old one here. Remove the old one when the [lifetime](Self::nonce_lifetime) has passed.
    pub fn older_nonce_key(mut self, key: SealingKey) -> Self {
        self.older_nonce_keys.push(key);
        self
    }

    /// Sets how long a nonce is accepted. By default 5 minutes, at most a day.
    pub fn nonce_lifetime(mut self, lifetime: Duration) -> Self {
        self.nonce_lifetime = Some(lifetime);
        self
    }

    pub(in crate::incoming) fn build(
        &self,
        resource: Option<&str>,
        insecure: bool,
        faults: &mut Faults,
    ) -> Option<Verifier> {
        let urls = self.public_urls(resource, insecure, faults);
        if self.algorithms.is_empty() {
            faults.add("dpop.algorithms", "is empty, name at least one");
        }
        if self.window.is_zero() || self.window > LONGEST_WINDOW {
            faults.add("dpop.window", "is not above 0 and at most 10 minutes");
        }
        if self.capacity == 0 {
            faults.add(
                "dpop.proof_memory",
                "is 0, remember at least one proof, or each could be used again",
            );
        }
        let nonces = self.nonce_settings(faults);
        Some(Verifier {
            algorithms: self.algorithms.clone(),
            urls: urls?,
            window: self.window,
            is_required: self.is_required,
            replay: self.replay.clone(),
            nonces,
        })
    }

    fn public_urls(
        &self,
        resource: Option<&str>,
        insecure: bool,
        faults: &mut Faults,
    ) -> Option<Arc<[PublicUrl]>> {
        if self.urls.is_empty() {
            let Some(resource) = resource else {
                faults.add(
                    "dpop.url",
                    "is missing, give the URL that callers use, or set the validator's `resource`",
                );
                return None;
            };
            // A fault of it is told as one of `resource`.
            return Some(
                PublicUrl::origin_of(resource, insecure)
                    .into_iter()
                    .collect(),
            );
        }
        let urls = self.urls.iter().enumerate().map(|(index, url)| {
            let setting = one_of("dpop.url", &self.urls, index);
            faults.take(setting, PublicUrl::read(url, insecure))
        });
        let urls: Vec<_> = urls.collect();
        urls.into_iter().collect()
    }

    fn nonce_settings(&self, faults: &mut Faults) -> Option<Nonces> {
        let lifetime = self.nonce_lifetime.unwrap_or(NONCE_LIFETIME);
        if lifetime.is_zero() || lifetime > LONGEST_NONCE_LIFETIME {
            faults.add("dpop.nonce_lifetime", "is not above 0 and at most a day");
        }
        if self.nonce_keys.is_empty() {
            let useless = [
                ("dpop.older_nonce_key", !self.older_nonce_keys.is_empty()),
                ("dpop.nonce_lifetime", self.nonce_lifetime.is_some()),
            ];
            for (setting, is_set) in useless {
                if is_set {
                    faults.add(
                        setting,
                        "is of no use without `nonces`, set both or neither",
                    );
                }
            }
            return None;
        }
        let keys = self.nonce_keys.iter().chain(&self.older_nonce_keys);
        Some(Nonces {
            keys: keys.cloned().collect(),
            lifetime,
        })
    }
}

impl Default for DpopPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for DpopPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopPolicy")
            .field("urls", &self.urls)
            .field("is_required", &self.is_required)
            .field("algorithms", &self.algorithms)
            .field("window", &self.window)
            .field("replay", &self.replay)
            .field("issues_nonces", &!self.nonce_keys.is_empty())
            .finish_non_exhaustive()
    }
}
