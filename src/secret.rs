//! Secrets that are redacted in `Debug`, wiped from memory, and marked sensitive as header values.
//!
//! # Security
//!
//! Neither type implements `Display`, `Serialize` or `PartialEq`, and `Debug` shows no part of the value. The memory is
//! overwritten when the last clone is dropped. Copies that the inner HTTP client makes when it sends a request are out
//! of reach.
//!
//! With the feature `token-exchange`, each has a `Fingerprint`, which tells two secrets apart without holding either.

#[cfg(feature = "token-exchange")]
use std::sync::OnceLock;
use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::HeaderValue;

use crate::wiped::Wiped;

pub(crate) const BEARER: &str = "Bearer ";

/// A bearer token (RFC 6750), ready to be sent.
///
/// The `Authorization` value is made once, when the token is created. [`authorization`](Self::authorization) returns a
/// reference to it. A clone of that value, or of the token, only increments a reference count.
///
/// ```
/// use tower_identity::AccessToken;
///
/// let token = AccessToken::new("2YotnFZFEjr1zCsicMWpAA")?;
/// assert!(token.authorization().is_sensitive());
/// assert_eq!(format!("{token:?}"), "AccessToken([redacted])");
/// # Ok::<(), tower_identity::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct AccessToken {
    authorization: HeaderValue,
    #[cfg(feature = "token-exchange")]
    fingerprint: OnceLock<Fingerprint>,
}

impl AccessToken {
    /// Creates an access token from `token`, and makes its `Authorization` value.
    ///
    /// Give the token without its scheme (`Bearer `). A `String` that is passed in is wiped.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSecret`] if the token is empty or has a character outside of visible ASCII (`0x21` to `0x7E`).
    /// Such a token cannot be sent, or can be mistaken for two.
    pub fn new(token: impl Into<String>) -> Result<Self, InvalidSecret> {
        Self::from_bytes(Wiped::new(token.into()).as_bytes())
    }

    /// The same, of bytes that their owner wipes.
    pub(crate) fn from_bytes(token: &[u8]) -> Result<Self, InvalidSecret> {
        check_visible_ascii(token, Spaces::Refused)?;
        let mut value = Wiped::new(Vec::with_capacity(BEARER.len() + token.len()));
        value.extend_from_slice(BEARER.as_bytes());
        value.extend_from_slice(token);
        Ok(Self {
            authorization: sensitive_header_value(value)?,
            #[cfg(feature = "token-exchange")]
            fingerprint: OnceLock::new(),
        })
    }

    /// Returns the value of the `Authorization` header, `Bearer …`, marked sensitive.
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// Makes the value of another header: the token after `prefix`, which is visible ASCII and spaces.
    pub(crate) fn header_value(&self, prefix: &str) -> Result<HeaderValue, InvalidSecret> {
        let token = self.bytes();
        let mut value = Wiped::new(Vec::with_capacity(prefix.len() + token.len()));
        value.extend_from_slice(prefix.as_bytes());
        value.extend_from_slice(token);
        sensitive_header_value(value)
    }

    /// Returns the token itself, without its scheme.
    ///
    /// # Security
    ///
    /// This is the secret. Use it only in a request to the party that it was issued for.
    pub fn expose(&self) -> &str {
        str::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// The token itself, for a caller that needs no text.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        let value = self.authorization.as_bytes();
        value.get(BEARER.len()..).unwrap_or_default()
    }

    /// Returns the fingerprint, which tells this token from others. It is computed on the first call, and a clone that was
    /// made before computes its own.
    ///
    /// Needs the feature `token-exchange`.
    #[cfg(feature = "token-exchange")]
    pub fn fingerprint(&self) -> Fingerprint {
        let make = || Fingerprint::new("access token", self.expose());
        *self.fingerprint.get_or_init(make)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken([redacted])")
    }
}

/// A secret that is not sent as a bearer token, for example a client secret, a key or an ID token.
///
/// ```
/// use tower_identity::Secret;
///
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// assert_eq!(format!("{secret:?}"), "Secret([redacted])");
/// # Ok::<(), tower_identity::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct Secret {
    inner: Arc<Kept>,
}

struct Kept {
    value: Wiped<String>,
    #[cfg(feature = "token-exchange")]
    fingerprint: OnceLock<Fingerprint>,
}

impl Secret {
    /// Creates a secret from `value`. Any text that is not empty is allowed. It may have line breaks, as a PEM key
    /// does.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSecret::Empty`] if `value` is empty.
    pub fn new(value: impl Into<String>) -> Result<Self, InvalidSecret> {
        let value = Wiped::new(value.into());
        if value.is_empty() {
            return Err(InvalidSecret::Empty);
        }
        Ok(Self {
            inner: Arc::new(Kept {
                value,
                #[cfg(feature = "token-exchange")]
                fingerprint: OnceLock::new(),
            }),
        })
    }

    /// Returns the secret itself.
    ///
    /// # Security
    ///
    /// Use it only in a request to the party that it authenticates to.
    pub fn expose(&self) -> &str {
        &self.inner.value
    }

    /// Returns the fingerprint, which tells this secret from others. It is computed on the first call, and shared by
    /// all clones of the secret.
    ///
    /// Needs the feature `token-exchange`.
    #[cfg(feature = "token-exchange")]
    pub fn fingerprint(&self) -> Fingerprint {
        let make = || Fingerprint::new("secret", &self.inner.value);
        *self.inner.fingerprint.get_or_init(make)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// The SHA-256 of a secret and its kind. An [`AccessToken`] and a [`Secret`] with the same text have different
/// fingerprints. [`CacheScope::key`](crate::credential::CacheScope::key) makes a cache key of it.
///
/// Needs the feature `token-exchange`.
///
/// `Debug` does not show it, because a weak secret could be guessed from it.
#[cfg(feature = "token-exchange")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) [u8; 32]);

#[cfg(feature = "token-exchange")]
impl Fingerprint {
    fn new(kind: &'static str, secret: &str) -> Self {
        Self::of([kind.as_bytes(), secret.as_bytes()])
    }

    /// Hashes each part with its length, so that two different lists of parts never have the same input.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        use sha2::{Digest, Sha256};

        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

#[cfg(feature = "token-exchange")]
impl std::hash::Hash for Fingerprint {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Any 8 bytes of a SHA-256 are as good as all for a hash table.
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

#[cfg(feature = "token-exchange")]
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint([redacted])")
    }
}

/// The reason why a text cannot be a token or a header value.
///
/// It reports the position and the kind of the fault, never the text.
///
/// [`AccessToken`](crate::AccessToken) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSecret {
    /// The text is empty.
    #[error("the secret is empty")]
    Empty,
    /// The text has a carriage return or a line feed, often as the last character of a file.
    #[error("the secret has a line break at byte {at}; if it was read from a file, trim it")]
    LineBreak {
        /// The position in bytes, counted from 0.
        at: usize,
    },
    /// The text has another control character.
    #[error("the secret has a control character at byte {at}")]
    Control {
        /// The position in bytes, counted from 0.
        at: usize,
    },
    /// The text has a character outside of ASCII that cannot be seen, for example a byte order mark or a no-break space.
    #[error(
        "the secret has a character that cannot be seen at byte {at}, such as a byte order mark or a no-break space"
    )]
    Invisible {
        /// The position in bytes, counted from 0.
        at: usize,
    },
    /// A token has a space, or a header value has one at its start or end.
    #[error(
        "the secret has a space at byte {at}; a token comes without its scheme, and a value without padding"
    )]
    Space {
        /// The position in bytes, counted from 0.
        at: usize,
    },
    /// The text has a character outside of ASCII.
    #[error("the secret has a character outside of ASCII at byte {at}")]
    NonAscii {
        /// The position in bytes, counted from 0.
        at: usize,
    },
}

/// Makes a header value of a secret. Spaces inside are allowed (`Bearer …`, `Basic …`).
pub(crate) fn secret_header_value(value: impl Into<String>) -> Result<HeaderValue, InvalidSecret> {
    let value = Wiped::new(value.into());
    check_visible_ascii(value.as_bytes(), Spaces::Inside)?;
    sensitive_header_value(Wiped::new(value.as_bytes().to_vec()))
}

/// Checks the secret or the ID of an OAuth client.
///
/// RFC 6749, appendix A.2, allows visible ASCII and the space. Issuers that let an operator choose the secret also take
/// letters outside of ASCII, as UTF-8 (appendix B), so these pass. A character that cannot be seen is a slip.
#[cfg(feature = "token-exchange")]
pub(crate) fn check_client_secret(secret: &str) -> Result<(), InvalidSecret> {
    for (at, character) in secret.char_indices() {
        match character {
            ' '..='~' => {}
            '\r' | '\n' => return Err(InvalidSecret::LineBreak { at }),
            _ if character.is_control() => return Err(InvalidSecret::Control { at }),
            _ if is_invisible(character) => return Err(InvalidSecret::Invisible { at }),
            _ => {}
        }
    }
    Ok(())
}

/// Whether nothing is shown for a character, or only a space: those that copying and editors add, such as a byte order
/// mark.
#[cfg(feature = "token-exchange")]
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(feature = "config")]
pub(crate) const PLACEHOLDER: &str =
    "a placeholder (`${…}` or `{{…}}`) that nothing replaced; replace it before";

/// Whether `name` looks like the name of an environment variable. Otherwise it may be a secret in the wrong place.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let is_of_name = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.bytes().all(is_of_name)
}

/// Whether a part of `text` was left for a template engine or a shell to replace.
pub(crate) fn has_placeholder(text: &str) -> bool {
    let has = |open, close| {
        text.split(open).skip(1).any(|rest: &str| {
            rest.split_once(close).is_some_and(|(name, _)| {
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || " _.:-/|()\"'$".contains(c);
                !name.trim().is_empty() && name.chars().all(is_of_name)
            })
        })
    };
    has("${", "}") || has("{{", "}}")
}

#[derive(Clone, Copy, PartialEq)]
enum Spaces {
    Refused,
    Inside,
}

fn check_visible_ascii(text: &[u8], spaces: Spaces) -> Result<(), InvalidSecret> {
    let last = text.len().checked_sub(1).ok_or(InvalidSecret::Empty)?;
    if is_visible_ascii(text) {
        return Ok(());
    }
    for (at, byte) in text.iter().enumerate() {
        match byte {
            0x21..=0x7e => {}
            b' ' if spaces == Spaces::Inside && at != 0 && at != last => {}
            b' ' => return Err(InvalidSecret::Space { at }),
            b'\r' | b'\n' => return Err(InvalidSecret::LineBreak { at }),
            0x80.. => return Err(InvalidSecret::NonAscii { at }),
            _ => return Err(InvalidSecret::Control { at }),
        }
    }
    Ok(())
}

/// Without a branch for each byte, so that it takes several bytes at once.
fn is_visible_ascii(text: &[u8]) -> bool {
    let above_lowest = text.iter().map(|byte| byte.wrapping_sub(0x21));
    above_lowest.fold(0, u8::max) <= 0x7e - 0x21
}

fn sensitive_header_value(value: Wiped<Vec<u8>>) -> Result<HeaderValue, InvalidSecret> {
    // Owned by `Bytes`, so that the last clone of the header value wipes it and no clone allocates.
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
        .map_err(|_| InvalidSecret::Control { at: 0 })?;
    value.set_sensitive(true);
    Ok(value)
}
