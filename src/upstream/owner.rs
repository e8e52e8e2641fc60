use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::{
    error::{BuildError, Faults},
    identity::Identity,
    secret::Fingerprint,
};

const DOMAIN: &[u8] = b"tower-identity upstream tokens";

/// The user that upstream tokens belong to: an issuer and a subject, and optionally one session of theirs.
///
/// Needs the feature `incoming`.
///
/// Two owners are equal if all three are equal. The tokens of a user without a session and those of each of their
/// sessions are kept apart. A clone costs one reference count.
///
/// ```
/// use tower_identity::{Identity, upstream::TokenOwner};
///
/// let alice = TokenOwner::new("https://idp.example.com", "alice")?;
/// let laptop = alice.clone().with_session("session-1");
/// assert_ne!(alice, laptop);
/// assert_eq!(alice.user_key(), laptop.user_key());
///
/// let identity = Identity::builder("alice")
///     .issuer("https://idp.example.com")
///     .build()?;
/// assert_eq!(TokenOwner::of(&identity)?, alice);
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # Security
///
/// Take issuer, subject and session from a source that authenticated the user, for example a validated token. A
/// subject is unique only within its issuer, so that an owner without an issuer cannot be made.
#[derive(Clone)]
pub struct TokenOwner {
    inner: Arc<Owner>,
}

#[derive(Clone)]
struct Owner {
    issuer: String,
    subject: String,
    session: Option<String>,
    user_key: OwnerKey,
    key: OwnerKey,
}

impl TokenOwner {
    /// The user whom `issuer` knows as `subject`: the claims `iss` and `sub` of the token that users come with.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `issuer` or `subject` is blank.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Result<Self, BuildError> {
        let (issuer, subject) = (issuer.into(), subject.into());
        let mut faults = Faults::new("TokenOwner");
        faults.need_text("issuer", &issuer);
        faults.need_text("subject", &subject);
        faults.check()?;
        let user_key = OwnerKey::of([b"user", issuer.as_bytes(), subject.as_bytes()]);
        Ok(Self {
            inner: Arc::new(Owner {
                issuer,
                subject,
                session: None,
                user_key,
                key: user_key,
            }),
        })
    }

    /// The user of `identity`.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when the identity has no issuer. Its subject alone could be a user of any issuer.
    pub fn of(identity: &Identity) -> Result<Self, BuildError> {
        Self::new(identity.issuer().unwrap_or_default(), identity.subject())
    }

    /// The user whose upstream tokens `identity` has or, with a claim for sessions, the session that it names.
    ///
    /// A validator leaves this claim out of the identity, and adds the owner.
    #[inline(never)]
    pub(crate) fn of_upstream(
        identity: &Identity,
        session_claim: Option<&str>,
    ) -> Result<Self, NoOwner> {
        let known = identity.token_owner();
        if let Some(known) =
            known.filter(|known| known.session().is_some() == session_claim.is_some())
        {
            return Ok(known.clone());
        }
        let user = Self::of(identity).map_err(NoOwner::NoIssuer)?;
        let Some(claim) = session_claim else {
            return Ok(user);
        };
        let session = identity.claims().get(claim).and_then(Value::as_str);
        let session = session.filter(|session| !session.trim().is_empty());
        Ok(user.with_session(session.ok_or(NoOwner::NoSession)?))
    }

    /// The session `session` of this user, for example the claim `sid` of the token that the user comes with.
    #[must_use]
    pub fn with_session(mut self, session: impl Into<String>) -> Self {
        let session = session.into();
        let owner = Arc::make_mut(&mut self.inner);
        owner.key = OwnerKey::of([b"session", &owner.user_key.0[..], session.as_bytes()]);
        owner.session = Some(session);
        self
    }

    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.inner.subject
    }

    /// The session, if these tokens belong to one.
    pub fn session(&self) -> Option<&str> {
        self.inner.session.as_deref()
    }

    /// Stands for the user, whatever the session.
    pub fn user_key(&self) -> OwnerKey {
        self.inner.user_key
    }

    /// Stands for this user and session. Without a session it is the [`user_key`](Self::user_key).
    pub fn key(&self) -> OwnerKey {
        self.inner.key
    }
}

/// Why an identity has no owner of upstream tokens.
pub(crate) enum NoOwner {
    NoIssuer(BuildError),
    NoSession,
}

impl PartialEq for TokenOwner {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for TokenOwner {}

impl fmt::Debug for TokenOwner {
    /// Shows the user, and no session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenOwner")
            .field("issuer", &self.issuer())
            .field("subject", &self.subject())
            .finish_non_exhaustive()
    }
}

/// Stands for a user or a session in a store, in place of their names: a SHA-256.
///
/// Needs the feature `incoming`.
///
/// It is computed from a constant, the issuer, the subject and the session, each with its length. A party that reads
/// it can recognize a user whose issuer and subject it knows, and no others.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerKey([u8; 32]);

impl OwnerKey {
    fn of(parts: [&[u8]; 3]) -> Self {
        let [kind, first, second] = parts;
        Self(Fingerprint::of([DOMAIN, kind, first, second]).0)
    }

    /// The key as bytes, for a store to keep.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The key that [`to_bytes`](Self::to_bytes) returned.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey([redacted])")
    }
}
