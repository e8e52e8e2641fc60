use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use crate::error::{AuthError, AuthErrorKind, BuildError};

/// The first byte of the associated data. That of a sealed token is smaller.
const OF_CONTEXT: u8 = 0x80;
pub(super) const NONCE_LENGTH: usize = 24;

/// A key of 256 bits that seals stored tokens, and the state of a login (XChaCha20-Poly1305).
///
/// Needs the feature `linking` or `redis`.
///
/// The key and the stored data together reveal the users' tokens. The key is wiped from memory when it is dropped.
///
/// An application can seal its own values with it, for example a cookie:
///
/// ```
/// use tower_identity::upstream::SealingKey;
///
/// let key = SealingKey::random()?;
/// let cookie = key.seal("session cookie", b"user-1")?;
/// assert_eq!(key.open("session cookie", &cookie).unwrap(), b"user-1");
/// assert!(key.open("another cookie", &cookie).is_none());
/// # Ok::<(), tower_identity::AuthError>(())
/// ```
#[derive(Clone)]
pub struct SealingKey {
    pub(super) cipher: XChaCha20Poly1305,
}

impl SealingKey {
    /// Takes 32 bytes from a cryptographic random number generator. A password is not a key.
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self {
            cipher: XChaCha20Poly1305::new((&*key).into()),
        }
    }

    /// Reads a key in standard Base64, as `openssl rand -base64 32` prints it. White space around it is ignored.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `key` is not the Base64 of 32 bytes.
    pub fn from_base64(key: &str) -> Result<Self, BuildError> {
        let decoded = Zeroizing::new(STANDARD.decode(key.trim()).unwrap_or_default());
        let bytes = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| {
            BuildError::of(
                "SealingKey",
                "key",
                "is not the Base64 of 32 random bytes, make one with `openssl rand -base64 32`",
            )
        })?;
        Ok(Self::new(bytes))
    }

    /// Makes a random key. It opens nothing after a restart of the process.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when the operating system has no random numbers.
    pub fn random() -> Result<Self, AuthError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).map_err(|error| cannot_seal().with_source(error))?;
        Ok(Self {
            cipher: XChaCha20Poly1305::new((&*key).into()),
        })
    }

    /// Seals `value` for `purpose`. The result is text in base64url, which a cookie or a URL can have.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when the operating system has no random numbers.
    pub fn seal(&self, purpose: &str, value: &[u8]) -> Result<String, AuthError> {
        self.seal_for(&[purpose.as_bytes()], value)
    }

    /// Opens what was sealed for the same `purpose`. `None` for anything else.
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        let keys = std::slice::from_ref(self);
        let mut opened = open_for(keys, &[purpose.as_bytes()], sealed)?;
        Some(std::mem::take(&mut *opened))
    }

    /// Seals `value` so that it opens only with the same `context`.
    pub(crate) fn seal_for(&self, context: &[&[u8]], value: &[u8]) -> Result<String, AuthError> {
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).map_err(|error| cannot_seal().with_source(error))?;
        let payload = Payload {
            msg: value,
            aad: &associated_data_of(context),
        };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| cannot_seal())?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }
}

/// Opens what any of `keys` sealed with the same `context`.
pub(crate) fn open_for(
    keys: &[SealingKey],
    context: &[&[u8]],
    sealed: &str,
) -> Option<Zeroizing<Vec<u8>>> {
    let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LENGTH>()?;
    let associated_data = associated_data_of(context);
    keys.iter().find_map(|key| {
        let payload = Payload {
            msg: ciphertext,
            aad: &associated_data,
        };
        let opened = key.cipher.decrypt(&XNonce::from(*nonce), payload);
        opened.ok().map(Zeroizing::new)
    })
}

/// Each part with its length.
fn associated_data_of(context: &[&[u8]]) -> Vec<u8> {
    let mut data = vec![OF_CONTEXT];
    for part in context {
        data.extend((part.len() as u64).to_be_bytes());
        data.extend(*part);
    }
    data
}

#[cold]
fn cannot_seal() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the operating system has no random numbers, so nothing can be sealed",
    )
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}
