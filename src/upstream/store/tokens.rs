use std::{fmt, sync::Arc, time::SystemTime};

use crate::{
    identity::UpstreamToken,
    secret::Secret,
    upstream::{OwnerKey, TokenOwner},
};

/// The tokens that a provider issued for a user, at a login or a refresh. A clone costs one reference count.
///
/// Needs the feature `incoming`.
///
/// ```
/// use std::time::SystemTime;
///
/// use tower_identity::{
///     AccessToken, Secret, UpstreamToken, upstream::ProviderTokens,
/// };
///
/// // As a login brought them.
/// let token = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
/// let tokens = ProviderTokens::new(token, SystemTime::now())
///     .with_refresh_token(Secret::new("ghr_1B4a2e77838347a7")?);
/// assert!(tokens.refresh_token().is_some());
/// # Ok::<(), tower_identity::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct ProviderTokens {
    inner: Arc<Issued>,
}

#[derive(Clone)]
struct Issued {
    token: UpstreamToken,
    refresh_token: Option<Secret>,
    refresh_thumbprint: Option<Arc<str>>,
    at: SystemTime,
}

impl ProviderTokens {
    /// Tokens that were requested at `issued_at`. Without a refresh token they last until they expire.
    pub fn new(token: UpstreamToken, issued_at: SystemTime) -> Self {
        Self {
            inner: Arc::new(Issued {
                token,
                refresh_token: None,
                refresh_thumbprint: None,
                at: issued_at,
            }),
        }
    }

    /// Sets the refresh token (RFC 6749 §1.5).
    #[must_use]
    pub fn with_refresh_token(mut self, refresh_token: Secret) -> Self {
        Arc::make_mut(&mut self.inner).refresh_token = Some(refresh_token);
        self
    }

    /// Sets the thumbprint of the key that the refresh token alone is bound to (DPoP, RFC 9449 §5): a provider may issue a
    /// bearer token to a public client, and bind its refresh token. Where the access token
    /// [is bound](UpstreamToken::dpop_thumbprint), so is the refresh token, and this is not needed.
    #[must_use]
    pub fn with_refresh_thumbprint(mut self, thumbprint: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.inner).refresh_thumbprint = Some(thumbprint.into());
        self
    }

    /// Notes the key of the refresh token, unless that of the access token is the same.
    pub(in crate::upstream) fn with_refresh_token_bound_to(
        self,
        thumbprint: Option<Arc<str>>,
    ) -> Self {
        match thumbprint {
            Some(thumbprint) if self.token().dpop_thumbprint().is_none() => {
                self.with_refresh_thumbprint(thumbprint)
            }
            _ => self,
        }
    }

    /// The access token, and the ID token if there is one.
    pub fn token(&self) -> &UpstreamToken {
        &self.inner.token
    }

    /// The refresh token, if the provider issued one.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.inner.refresh_token.as_ref()
    }

    /// The thumbprint of the key that the refresh token alone is bound to.
    pub fn refresh_thumbprint(&self) -> Option<&str> {
        self.inner.refresh_thumbprint.as_deref()
    }

    /// The thumbprint of the key without which the tokens cannot be refreshed.
    pub(in crate::upstream) fn thumbprint(&self) -> Option<&str> {
        let of_access_token = self.token().dpop_thumbprint();
        of_access_token.or(self.refresh_thumbprint())
    }

    /// The time when the tokens were requested.
    pub fn issued_at(&self) -> SystemTime {
        self.inner.at
    }

    #[cfg(feature = "linking")]
    pub(in crate::upstream) fn without_id_token(mut self) -> Self {
        let issued = Arc::make_mut(&mut self.inner);
        issued.token = issued.token.clone().without_id_token();
        self
    }

    /// These tokens, completed by those that a refresh did not renew: RFC 6749 §6 lets the provider leave out a refresh
    /// token that stays the same, OIDC Core §12.2 the ID token.
    pub(in crate::upstream) fn completed_by(mut self, previous: &Self) -> Self {
        let issued = Arc::make_mut(&mut self.inner);
        if issued.refresh_token.is_none() {
            issued.refresh_token = previous.refresh_token().cloned();
            if issued.token.dpop_thumbprint().is_none() {
                issued.refresh_thumbprint = previous.thumbprint().map(Into::into);
            }
        }
        if issued.token.id_token().is_none()
            && let Some(id_token) = previous.token().id_token()
        {
            issued.token = issued.token.clone().with_id_token(id_token.clone());
        }
        self
    }
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderTokens")
            .field("token", self.token())
            .field("refresh_token", &self.refresh_token())
            .field("refresh_thumbprint", &self.refresh_thumbprint())
            .field("issued_at", &self.issued_at())
            .finish()
    }
}

/// A provider's tokens, as a store keeps them: with their user and a version.
///
/// Needs the feature `incoming`.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Debug)]
pub struct StoredTokens {
    tokens: ProviderTokens,
    user: OwnerKey,
    version: Version,
}

impl StoredTokens {
    /// Tokens of `owner` with a new version. A store does this in [`put`](super::UpstreamTokenStore::put).
    pub fn new(owner: &TokenOwner, tokens: ProviderTokens) -> Self {
        Self::restored(owner.user_key(), tokens, Version::random())
    }

    /// Tokens as they were stored: with their [`user`](Self::user) and [`version`](Self::version).
    pub fn restored(user: OwnerKey, tokens: ProviderTokens, version: Version) -> Self {
        Self {
            tokens,
            user,
            version,
        }
    }

    /// The tokens.
    pub fn tokens(&self) -> &ProviderTokens {
        &self.tokens
    }

    /// The [key of the user](TokenOwner::user_key) that they were stored for.
    ///
    /// [`UpstreamTokens`](crate::UpstreamTokens) gives them to no other user.
    pub fn user(&self) -> OwnerKey {
        self.user
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the access token was at its end when it was issued: its lifetime is 0, or cannot be told.
    pub(in crate::upstream) fn is_for_one_use(&self) -> bool {
        let expires_at = self.tokens.token().expires_at();
        expires_at.is_some_and(|end| end <= self.tokens.issued_at())
    }

    /// Returns the tokens for the request that waits for them, without their expiry. Otherwise that request would not
    /// send the token that was issued for it.
    pub(in crate::upstream) fn for_one_use(mut self) -> Self {
        let issued = Arc::make_mut(&mut self.tokens.inner);
        issued.token = issued.token.clone().without_expires_at();
        self
    }
}

/// Identifies stored tokens: 128 random bits. Equal versions mean equal tokens.
///
/// Needs the feature `incoming`.
///
/// The same tokens that are stored twice have two versions.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u128);

impl Version {
    fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// The version as bytes, for a store to keep.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The version that [`to_bytes`](Self::to_bytes) returned.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// A number between 0 and 1 that is the same on all replicas.
    pub(in crate::upstream) fn jitter(self) -> f64 {
        (self.0 as u32) as f64 / f64::from(u32::MAX)
    }
}
