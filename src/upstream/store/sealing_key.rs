use std::{fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use crate::{
    error::{AuthError, AuthErrorKind, BuildError},
    wiped::Wiped,
};

/// The first byte of the associated data. That of a sealed token is smaller.
const OF_CONTEXT: u8 = 0x80;
pub(super) const NONCE_LENGTH: usize = 12;
pub(super) const TAG_LENGTH: usize = 16;

/// A key of 256 bits that seals stored tokens, the state of a login, and DPoP nonces (AES-256-GCM-SIV, RFC 8452).
///
/// Needs the features `dpop` or `linking` or `redis` and `incoming`. The latter two enable `incoming` by themselves.
///
/// The key and the stored data together reveal the users' tokens. The key is wiped from memory when it is dropped.
/// Nonces are random. Should one come twice, it reveals only whether the same value was sealed twice.
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
    /// `None` is a key that the library does not take. It takes each one of 32 bytes.
    cipher: Option<Arc<LessSafeKey>>,
}

impl SealingKey {
    /// Takes 32 bytes from a cryptographic random number generator. A password is not a key.
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        let key = UnboundKey::new(&AES_256_GCM_SIV, &*key).ok();
        Self {
            cipher: key.map(|key| Arc::new(LessSafeKey::new(key))),
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
        getrandom::fill(&mut *key).map_err(|error| no_random_numbers().with_source(error))?;
        Ok(Self::new(*key))
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
        let value = Wiped::new(value.to_vec());
        let sealed = self.seal_with(&associated_data_of(context), value)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed.concat()))
    }

    /// Returns the nonce, the ciphertext and the tag.
    pub(super) fn seal_with(
        &self,
        associated_data: &[u8],
        mut value: Wiped<Vec<u8>>,
    ) -> Result<[Vec<u8>; 3], AuthError> {
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).map_err(|error| no_random_numbers().with_source(error))?;
        let cipher = self.cipher.as_ref().ok_or_else(cannot_seal)?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = cipher
            .seal_in_place_separate_tag(unique, Aad::from(associated_data), &mut value)
            .map_err(|_| cannot_seal())?;
        let ciphertext = std::mem::take(&mut *value);
        Ok([nonce.to_vec(), ciphertext, tag.as_ref().to_vec()])
    }
}

/// Opens what any of `keys` sealed with the same `context`.
pub(crate) fn open_for(
    keys: &[SealingKey],
    context: &[&[u8]],
    sealed: &str,
) -> Option<Wiped<Vec<u8>>> {
    let mut sealed = Wiped::new(URL_SAFE_NO_PAD.decode(sealed).ok()?);
    let copy = |opened: &[u8]| Some(Wiped::new(opened.to_vec()));
    open_with(keys, &associated_data_of(context), &mut sealed, copy)
}

/// Opens a nonce, a ciphertext and a tag that any of `keys` sealed with the same associated data, and has `read` read it.
/// The buffer may have the opened value afterwards.
pub(super) fn open_with<T>(
    keys: &[SealingKey],
    associated_data: &[u8],
    sealed: &mut [u8],
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LENGTH>()?;
    let (ciphertext, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>()?;
    let opens = |key: &SealingKey, buffer: &mut [u8]| {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let associated_data = Aad::from(associated_data);
        key.cipher.as_ref().is_some_and(|cipher| {
            let opened = cipher.open_in_place_separate_tag(nonce, associated_data, &*tag, buffer);
            opened.is_ok()
        })
    };
    let (last, others) = keys.split_last()?;
    for key in others {
        // A key that does not open it leaves nothing of it.
        let mut copy = Wiped::new(ciphertext.to_vec());
        if opens(key, &mut copy) {
            return read(&copy);
        }
    }
    opens(last, ciphertext).then(|| read(ciphertext)).flatten()
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
fn no_random_numbers() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the operating system has no random numbers, so nothing can be sealed",
    )
}

#[cold]
fn cannot_seal() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the value cannot be sealed; it was not stored",
    )
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}
