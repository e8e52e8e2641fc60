use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tower::Service;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, BuildError, Faults},
    runtime::{Mutex, MutexGuard},
    secret::Secret,
};

use super::{
    public_key::PublicKey,
    published_document::PublishedDocument,
    signing::{SigningAlgorithm, SigningKey},
};

/// The keys that this gateway signs with, and publishes. One of them signs.
///
/// Needs the feature `private-key-jwt`.
///
/// To rotate, [add](Self::add) the new key, let it [sign](Self::sign_with) when all backends may have fetched it, and
/// [remove](Self::remove) the old one when no JWT of it is valid any more. A clone shares the keys.
///
/// ```
/// use tower_identity::{
///     Secret,
///     oauth::{SigningAlgorithm, SigningKeys},
/// };
///
/// # fn example(old: Secret, new: Secret) -> Result<(), tower_identity::BuildError> {
/// let keys = SigningKeys::new("2026-01", SigningAlgorithm::Es256, &old)?;
///
/// // Backends fetch the keys again within 5 minutes.
/// keys.add("2026-02", SigningAlgorithm::Es256, &new)?;
/// // Then:
/// keys.sign_with("2026-02")?;
/// // A few minutes later:
/// keys.remove("2026-01")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SigningKeys {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    signing: Published,
    others: Vec<Published>,
    document: Bytes,
}

/// A key with its public part.
#[derive(Clone)]
pub(crate) struct Published {
    key_id: String,
    key: SigningKey,
    jwk: Map<String, Value>,
}

impl SigningKeys {
    /// Creates a set with the private key in `pem` (PKCS#8, or PKCS#1 for RSA), which signs and is published as `key_id`.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `key_id` is blank, or if `pem` has no private key that can sign with the algorithm.
    pub fn new(
        key_id: impl Into<String>,
        algorithm: SigningAlgorithm,
        pem: &Secret,
    ) -> Result<Self, BuildError> {
        let signing = Published::read(key_id.into(), algorithm, pem, |_| false)?;
        let mut inner = Inner {
            signing,
            others: Vec::new(),
            document: Bytes::new(),
        };
        inner.publish();
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// Publishes another key, which does not sign yet.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if there is a key with this `key_id`.
    pub fn add(
        &self,
        key_id: impl Into<String>,
        algorithm: SigningAlgorithm,
        pem: &Secret,
    ) -> Result<(), BuildError> {
        let is_there = |key_id: &str| self.inner().has(key_id);
        let added = Published::read(key_id.into(), algorithm, pem, is_there)?;
        let mut inner = self.inner();
        inner.others.push(added);
        inner.publish();
        Ok(())
    }

    /// Signs with this key from now on. The others stay published.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if there is no key with this `key_id`.
    pub fn sign_with(&self, key_id: &str) -> Result<(), BuildError> {
        let mut inner = self.inner();
        if inner.signing.key_id == key_id {
            return Ok(());
        }
        let at = inner.others.iter().position(|key| key.key_id == key_id);
        let Some(at) = at else {
            return Err(fault("is the name of no key, add the key first"));
        };
        let signing = inner.others.swap_remove(at);
        let before = std::mem::replace(&mut inner.signing, signing);
        inner.others.push(before);
        inner.publish();
        Ok(())
    }

    /// Publishes this key no longer.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if the key signs. A key that is not there is no error.
    pub fn remove(&self, key_id: &str) -> Result<(), BuildError> {
        let mut inner = self.inner();
        if inner.signing.key_id == key_id {
            return Err(fault("is the key that signs, let another one sign first"));
        }
        inner.others.retain(|key| key.key_id != key_id);
        inner.publish();
        Ok(())
    }

    /// Returns the service that publishes the keys.
    pub fn jwks(&self) -> Jwks {
        Jwks {
            published: Publishing::Keys(self.clone()),
        }
    }

    /// Creates a set in which the first key signs, unless there is none.
    #[cfg(feature = "config")]
    pub(crate) fn of(mut keys: Vec<Published>) -> Option<Self> {
        if keys.is_empty() {
            return None;
        }
        let others = keys.split_off(1);
        let mut inner = Inner {
            signing: keys.pop()?,
            others,
            document: Bytes::new(),
        };
        inner.publish();
        Some(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// Adds to `scope` which key signs now.
    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        let Published { key_id, key, .. } = self.inner().signing.clone();
        key.describe(scope.field("signing key", key_id))
    }

    pub(crate) async fn sign(
        &self,
        claims: Map<String, Value>,
    ) -> Result<Zeroizing<String>, AuthError> {
        let Published { key_id, key, .. } = self.inner().signing.clone();
        let header = [("typ", "JWT".into()), ("kid", Value::from(key_id))];
        let header = header.map(|(name, value)| (name.to_owned(), value));
        key.sign_jwt(header.into_iter().collect(), claims).await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn has(&self, key_id: &str) -> bool {
        self.keys().any(|key| key.key_id == key_id)
    }

    fn keys(&self) -> impl Iterator<Item = &Published> {
        std::iter::once(&self.signing).chain(&self.others)
    }

    fn publish(&mut self) {
        self.document = document(self.keys());
    }
}

/// The document that publishes these keys (RFC 7517 §5).
fn document<'a>(keys: impl Iterator<Item = &'a Published>) -> Bytes {
    let keys: Vec<_> = keys.map(|key| &key.jwk).collect();
    json!({ "keys": keys }).to_string().into()
}

impl Published {
    pub(crate) fn read(
        key_id: String,
        algorithm: SigningAlgorithm,
        pem: &Secret,
        is_there: impl FnOnce(&str) -> bool,
    ) -> Result<Self, BuildError> {
        let mut faults = Faults::new("SigningKeys");
        faults.need_text("key_id", &key_id);
        if is_there(&key_id) {
            faults.add("key_id", "is the name of another key, give a new one");
        }
        let key = faults.take("pem", SigningKey::read(algorithm, pem));
        let public = key.as_ref().and_then(PublicKey::of);
        let (key, public) = faults.or(key.zip(public))?;
        let mut jwk = public.jwk();
        for (name, value) in [("kid", &*key_id), ("use", "sig"), ("alg", algorithm.name())] {
            jwk.insert(name.to_owned(), value.into());
        }
        Ok(Self { key_id, key, jwk })
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        let keys: Vec<_> = inner.keys().map(|key| &key.key_id).collect();
        f.debug_struct("SigningKeys")
            .field("signing", &inner.signing.key_id)
            .field("keys", &keys)
            .finish_non_exhaustive()
    }
}

#[cold]
fn fault(message: &'static str) -> BuildError {
    let mut faults = Faults::new("SigningKeys");
    faults.add("key_id", message);
    faults.into_error()
}

/// A service that publishes the public parts of [`SigningKeys`] (JWKS, RFC 7517 §5).
///
/// Needs the feature `private-key-jwt`.
///
/// [`SigningKeys::jwks`] returns it, and so does `OutgoingAuthConfig::jwks` (feature `config`). Route a path of your choice
/// to it, for example `/.well-known/jwks.json`, for all
/// callers. It answers `GET` and `HEAD` with the keys, which may be cached for 5 minutes, and any other method with 405.
#[derive(Clone, Debug)]
pub struct Jwks {
    published: Publishing,
}

#[derive(Clone, Debug)]
enum Publishing {
    Keys(SigningKeys),
    #[cfg(feature = "config")]
    Configured(PublishedKeys),
}

/// The document of keys that are not in one set.
#[cfg(feature = "config")]
#[derive(Clone, Debug)]
pub(crate) struct PublishedKeys {
    document: Arc<Mutex<Bytes>>,
}

#[cfg(feature = "config")]
impl PublishedKeys {
    /// Publishes these keys, each name once.
    pub(crate) fn new(keys: &[Published]) -> Self {
        let published = Self {
            document: Arc::default(),
        };
        published.replace(keys);
        published
    }

    /// Publishes these keys in place of the others.
    pub(crate) fn replace(&self, keys: &[Published]) {
        let is_first = |(index, key): &(usize, &Published)| {
            let mut earlier = keys.iter().take(*index);
            !earlier.any(|earlier| earlier.key_id == key.key_id)
        };
        let keys = keys.iter().enumerate().filter(is_first);
        let document = document(keys.map(|(_, key)| key));
        let before = std::mem::replace(&mut *self.document(), document);
        drop(before);
    }

    pub(crate) fn jwks(&self) -> Jwks {
        Jwks {
            published: Publishing::Configured(self.clone()),
        }
    }

    fn document(&self) -> MutexGuard<'_, Bytes> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jwks {
    fn document(&self) -> Bytes {
        match &self.published {
            Publishing::Keys(keys) => keys.inner().document.clone(),
            #[cfg(feature = "config")]
            Publishing::Configured(keys) => keys.document().clone(),
        }
    }
}

impl<B> Service<Request<B>> for Jwks {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let document = PublishedDocument {
            content_type: "application/jwk-set+json",
            cache_control: "public, max-age=300",
            content: self.document(),
        };
        ready(Ok(document.answer(request.method())))
    }
}
