//! [`Identity`]: the user that a request is made for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

#[cfg(feature = "private-key-jwt")]
use std::sync::Weak;

use serde_json::{Map, Value};

#[cfg(feature = "incoming")]
use crate::upstream::owner::TokenOwner;
use crate::{
    error::{AuthError, BuildError, Faults},
    secret::{AccessToken, Secret},
};

/// The user that a request is made for, with the tokens that were issued to or for that user.
///
/// An identity is immutable and cheap to clone (one reference count). It travels in `http::Extensions`: a validator
/// puts a new one on each incoming request, and the outgoing layers read it.
///
/// # No identity means no identity
///
/// There is no empty, anonymous or default `Identity`. An unknown user is `None`, or an absent extension. For example,
/// a session that is restored without a live token has no identity, not a partial one. The next request brings a
/// complete identity.
///
/// ```
/// use tower_identity::{AccessToken, Identity, UpstreamToken};
///
/// let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
/// let identity = Identity::builder("user-1")
///     .issuer("https://idp.example.com")
///     .token(AccessToken::new("eyJhbGciOi.e30.c2ln")?)
///     .upstream("github", github)
///     .build()?;
///
/// assert_eq!(identity.subject(), "user-1");
/// assert!(identity.upstream("github").is_some());
/// assert!(identity.upstream("gitlab").is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    reading: Reading,
    user: Arc<User>,
    upstream: BTreeMap<String, UpstreamToken>,
    unavailable: BTreeMap<String, AuthError>,
    /// Where the user can link accounts, by provider.
    links: Option<Arc<Links>>,
    /// The user or the session that the upstream tokens belong to. Claims do not show the session.
    #[cfg(feature = "incoming")]
    owner: Option<TokenOwner>,
}

pub(crate) type Links = BTreeMap<String, String>;

/// The part that stays the same when the upstream tokens change.
#[derive(Clone)]
struct User {
    subject: String,
    issuer: Option<String>,
    name: Option<String>,
    email: Option<String>,
    claims: Map<String, Value>,
    token: Option<AccessToken>,
    metadata: BTreeMap<String, String>,
}

impl Identity {
    /// Creates a builder for an identity with this `subject`, the `sub` claim (OIDC Core §5.1).
    ///
    /// Call it when you read the user's tokens, because the time of the call decides which of two identities is
    /// [newer](Self::is_newer_than).
    pub fn builder(subject: impl Into<String>) -> IdentityBuilder {
        IdentityBuilder {
            user: User {
                subject: subject.into(),
                issuer: None,
                name: None,
                email: None,
                claims: Map::new(),
                token: None,
                metadata: BTreeMap::new(),
            },
            upstream: BTreeMap::new(),
            unavailable: BTreeMap::new(),
            reading: Reading::now(),
            faults: Faults::new("Identity"),
            upstreams: 0,
        }
    }

    /// Returns the `sub` claim, which is unique within the issuer. It is never empty.
    pub fn subject(&self) -> &str {
        &self.inner.user.subject
    }

    /// Returns the `iss` claim: the issuer that the subject belongs to.
    pub fn issuer(&self) -> Option<&str> {
        self.inner.user.issuer.as_deref()
    }

    /// Returns the `name` claim, for display.
    pub fn name(&self) -> Option<&str> {
        self.inner.user.name.as_deref()
    }

    /// Returns the `email` claim.
    ///
    /// It is not an identifier: several users may share an address, and an address may pass to another user.
    pub fn email(&self) -> Option<&str> {
        self.inner.user.email.as_deref()
    }

    /// Returns all claims of the user's token.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.inner.user.claims
    }

    /// Returns the token that the user authenticated with.
    pub fn token(&self) -> Option<&AccessToken> {
        self.inner.user.token.as_ref()
    }

    /// Returns the tokens of one upstream provider, by the name that the provider has in the configuration.
    pub fn upstream(&self, provider: &str) -> Option<&UpstreamToken> {
        self.inner.upstream.get(provider)
    }

    /// Returns all upstream providers with their tokens, in the order of their names.
    pub fn upstreams(&self) -> impl Iterator<Item = (&str, &UpstreamToken)> {
        self.inner
            .upstream
            .iter()
            .map(|(provider, token)| (provider.as_str(), token))
    }

    /// Returns why the user has no token of this provider now, although they have logged in there.
    ///
    /// For example, the token could not be refreshed.
    ///
    /// A strategy that needs this token fails with this error, because another login would not help.
    pub fn unavailable_upstream(&self, provider: &str) -> Option<&AuthError> {
        self.inner.unavailable.get(provider)
    }

    /// Returns where the user can link an account of this provider.
    pub(crate) fn link_url(&self, provider: &str) -> Option<&str> {
        let url = self.inner.links.as_ref()?.get(provider)?;
        Some(url)
    }

    /// Returns the application's own data about the user. This crate does not read it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.user.metadata
    }

    /// Returns the user or the session whose upstream tokens it has, if they were loaded by [`UpstreamTokens`].
    ///
    /// [`UpstreamTokens`]: crate::UpstreamTokens
    #[cfg(feature = "incoming")]
    pub(crate) fn token_owner(&self) -> Option<&TokenOwner> {
        self.inner.owner.as_ref()
    }

    /// Returns the same user with other upstream tokens.
    #[cfg(feature = "incoming")]
    pub(crate) fn with_upstream(
        &self,
        reading: Reading,
        upstream: BTreeMap<String, UpstreamToken>,
        unavailable: BTreeMap<String, AuthError>,
        links: Option<Arc<Links>>,
        owner: &TokenOwner,
    ) -> Result<Self, BuildError> {
        let mut faults = Faults::new("Identity");
        upstream
            .keys()
            .for_each(|provider| faults.need_text("upstream", provider));
        faults.check()?;
        Ok(Self {
            inner: Arc::new(Inner {
                reading,
                user: Arc::clone(&self.inner.user),
                upstream,
                unavailable,
                links,
                owner: Some(owner.clone()),
            }),
        })
    }

    /// Returns `true` if both are the same user: the same subject of the same issuer.
    ///
    /// A subject is unique only within its issuer. An identity without an issuer is therefore the same user only as its
    /// own clones.
    pub fn is_same_user(&self, other: &Identity) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.issuer().is_some()
                && self.issuer() == other.issuer()
                && self.subject() == other.subject())
    }

    /// Returns `true` if this identity's tokens were read after those of `other`, in this process.
    ///
    /// A validator reads them when the request arrives, or when the store of upstream tokens answers. The order in
    /// which identities become ready does not matter: a request that waits for a slow issuer does not become newer by
    /// waiting. For an identity that you build, the time is that of the call of [`builder`](Self::builder). A clone is
    /// as old as its original, so an identity that a client keeps and sends again does not become newer.
    pub fn is_newer_than(&self, other: &Identity) -> bool {
        self.inner.reading > other.inner.reading
    }
}

/// Tells whether an identity is of the same reading of the same user's token, which it does not keep.
#[cfg(feature = "private-key-jwt")]
#[derive(Clone)]
pub(crate) struct SameUser(Weak<User>);

#[cfg(feature = "private-key-jwt")]
impl SameUser {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self(Arc::downgrade(&identity.inner.user))
    }

    /// Returns `true` if nothing but the upstream tokens can differ. `false` says nothing.
    #[inline]
    pub(crate) fn is_for_certain(&self, identity: &Identity) -> bool {
        // The memory is not used for another user before this is dropped.
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&identity.inner.user))
    }
}

/// When the tokens of an identity were read, in the order of all such readings in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reading(u64);

impl Reading {
    pub(crate) fn now() -> Self {
        static READINGS: AtomicU64 = AtomicU64::new(0);

        Self(READINGS.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Debug for Identity {
    /// Shows the user and which tokens there are. It shows no token, and no claim, because claims may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("subject", &self.subject())
            .field("issuer", &self.issuer())
            .field("token", &self.token())
            .field("upstream", &self.inner.upstream)
            .finish_non_exhaustive()
    }
}

/// Marks a request whose caller sent no token, where [`TokenValidatorLayer`](crate::TokenValidatorLayer) lets it pass.
#[cfg(any(feature = "axum", feature = "incoming"))]
#[derive(Clone, Copy)]
pub(crate) struct SentNoToken;

/// Builds an [`Identity`].
#[derive(Clone)]
#[must_use = "nothing is checked before `build`"]
pub struct IdentityBuilder {
    user: User,
    upstream: BTreeMap<String, UpstreamToken>,
    unavailable: BTreeMap<String, AuthError>,
    reading: Reading,
    faults: Faults,
    /// The number of upstream tokens that were added, for the name of a setting.
    upstreams: usize,
}

impl IdentityBuilder {
    /// Sets when the tokens were read, if that was not when the builder was started.
    #[cfg(feature = "incoming")]
    pub(crate) fn of(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Sets the issuer, the `iss` claim. By default there is none.
    ///
    /// Set it wherever it is known. Subjects are unique only within an issuer, so two identities without one are never the
    /// [same user](Identity::is_same_user), and a session cannot [follow](crate::IdentityLayer::follow_requests) them.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.user.issuer = Some(issuer.into());
        self
    }

    /// Sets the name. An empty name, which some providers send, counts as none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.user.name = Some(name.into()).filter(|name| !name.is_empty());
        self
    }

    /// Sets the e-mail address. An empty address, which some providers send, counts as none.
    pub fn email(mut self, email: impl Into<String>) -> Self {
        self.user.email = Some(email.into()).filter(|email| !email.is_empty());
        self
    }

    /// Sets all claims of the user's token. By default there are none. `AwsSts`, `ClaimInjection` and `SignedIdentity`
    /// read them.
    pub fn claims(mut self, claims: Map<String, Value>) -> Self {
        self.user.claims = claims;
        self
    }

    /// Sets the token that the user authenticated with. By default there is none. The strategies that exchange a token need
    /// it, unless they exchange one of an upstream provider.
    pub fn token(mut self, token: AccessToken) -> Self {
        self.user.token = Some(token);
        self
    }

    /// Adds the tokens of an upstream provider.
    pub fn upstream(mut self, provider: impl Into<String>, token: UpstreamToken) -> Self {
        let provider = provider.into();
        let fault = if provider.trim().is_empty() {
            Some("has no provider's name, give it one")
        } else {
            let earlier = self.upstream.insert(provider, token);
            earlier.map(|_| "has a provider that was added before, remove one of the two")
        };
        if let Some(fault) = fault {
            self.faults
                .add(format!("upstream[{}]", self.upstreams), fault);
        }
        self.upstreams += 1;
        self
    }

    /// Sets the reason why the user has no token of an upstream provider now. If a token of that provider was added
    /// too, the token is used.
    pub fn unavailable_upstream(mut self, provider: impl Into<String>, error: AuthError) -> Self {
        self.unavailable.insert(provider.into(), error);
        self
    }

    /// Adds an entry to [`Identity::metadata`].
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.user.metadata.insert(key.into(), value.into());
        self
    }

    /// Builds the identity.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `subject` is blank.
    /// - `issuer` was set to a blank text.
    /// - `upstream[0]` has a provider with a blank name, or one that was added before. The number counts the calls of
    ///   [`upstream`](Self::upstream) from 0.
    pub fn build(mut self) -> Result<Identity, BuildError> {
        if self.user.subject.trim().is_empty() {
            self.faults.add(
                "subject",
                "is empty, give it the `sub` claim; a user who is not known is `None`, not an empty identity",
            );
        }
        self.faults
            .need_text_if_set("issuer", self.user.issuer.as_deref());
        self.faults.check()?;
        Ok(Identity {
            inner: Arc::new(Inner {
                reading: self.reading,
                user: Arc::new(self.user),
                upstream: self.upstream,
                unavailable: self.unavailable,
                links: None,
                #[cfg(feature = "incoming")]
                owner: None,
            }),
        })
    }
}

impl fmt::Debug for IdentityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityBuilder")
            .field("subject", &self.user.subject)
            .finish_non_exhaustive()
    }
}

/// The tokens that an upstream provider (an identity provider, an API's own authorization server) issued for a user.
///
/// It is cheap to clone (one reference count).
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use tower_identity::{AccessToken, Identity, UpstreamToken};
///
/// let end = SystemTime::now() + Duration::from_secs(3600);
/// let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?)
///     .with_expires_at(end);
/// let identity = Identity::builder("user-1").upstream("github", github).build()?;
/// assert!(identity.upstream("github").is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct UpstreamToken {
    inner: Arc<Issued>,
}

#[derive(Clone)]
struct Issued {
    access_token: AccessToken,
    id_token: Option<Secret>,
    expires_at: Option<SystemTime>,
    dpop_thumbprint: Option<Arc<str>>,
}

impl UpstreamToken {
    /// Creates the tokens from an access token. Without [`with_expires_at`](Self::with_expires_at) it never counts as
    /// expired.
    pub fn new(access_token: AccessToken) -> Self {
        Self {
            inner: Arc::new(Issued {
                access_token,
                id_token: None,
                expires_at: None,
                dpop_thumbprint: None,
            }),
        }
    }

    /// Sets when the access token expires.
    #[must_use]
    pub fn with_expires_at(mut self, expires_at: SystemTime) -> Self {
        Arc::make_mut(&mut self.inner).expires_at = Some(expires_at);
        self
    }

    #[cfg(feature = "incoming")]
    pub(crate) fn without_expires_at(mut self) -> Self {
        Arc::make_mut(&mut self.inner).expires_at = None;
        self
    }

    #[cfg(feature = "linking")]
    pub(crate) fn without_id_token(mut self) -> Self {
        Arc::make_mut(&mut self.inner).id_token = None;
        self
    }

    /// Sets the OIDC ID token. By default there is none. It proves a login in a token exchange, and is never sent as a
    /// bearer token.
    #[must_use]
    pub fn with_id_token(mut self, id_token: Secret) -> Self {
        Arc::make_mut(&mut self.inner).id_token = Some(id_token);
        self
    }

    /// Sets the thumbprint (`jkt`) of the key that the access token is bound to (DPoP, RFC 9449 §6.1). Such a token is of
    /// use only to the party that has the key.
    #[must_use]
    pub fn with_dpop_thumbprint(mut self, thumbprint: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.inner).dpop_thumbprint = Some(thumbprint.into());
        self
    }

    /// Returns the access token.
    pub fn access_token(&self) -> &AccessToken {
        &self.inner.access_token
    }

    /// Returns the OIDC ID token, if the provider issued one.
    pub fn id_token(&self) -> Option<&Secret> {
        self.inner.id_token.as_ref()
    }

    /// Returns when the access token expires. `None` means that the expiry is unknown, not that the token never
    /// expires.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at
    }

    /// Returns the thumbprint of the key that the access token is bound to. `None` means that it is a bearer token.
    pub fn dpop_thumbprint(&self) -> Option<&str> {
        self.inner.dpop_thumbprint.as_deref()
    }
}

impl fmt::Debug for UpstreamToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamToken")
            .field("access_token", self.access_token())
            .field("id_token", &self.id_token())
            .field("expires_at", &self.expires_at())
            .field("dpop_thumbprint", &self.dpop_thumbprint())
            .finish()
    }
}
