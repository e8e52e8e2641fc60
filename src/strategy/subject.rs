use std::{fmt, sync::Arc, time::SystemTime};

#[cfg(feature = "incoming")]
use crate::{
    identity::UpstreamToken,
    upstream::{
        account::Account,
        owner::{NoOwner, TokenOwner},
        upstream_tokens::UpstreamTokens,
    },
};

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, Faults, Interaction},
    identity::Identity,
    oauth::{
        token_type::TokenType,
        unverified_jwt::{UnverifiedJwt, expiration},
    },
    secret::{AccessToken, Fingerprint, Secret},
};

/// Selects which of the user's tokens is sent as the `subject_token`.
///
/// Needs the feature `token-exchange`.
///
/// ```
/// use tower_identity::Subject;
///
/// // The token that the user came with. This is the default.
/// let own = Subject::own_token();
/// // The user's access token, or ID token, of an upstream provider.
/// let access = Subject::upstream("github");
/// let id = Subject::upstream_id_token("okta");
/// ```
#[derive(Clone, Debug)]
pub struct Subject {
    source: Source,
    token_type: TokenType,
}

#[derive(Clone, Debug)]
enum Source {
    Own,
    UpstreamAccess(Arc<str>),
    UpstreamId(Arc<str>),
    /// The refresh token of the provider, which is not in the identity.
    #[cfg(feature = "incoming")]
    UpstreamRefresh {
        provider: Arc<str>,
        session_claim: Option<Arc<str>>,
    },
}

impl Subject {
    /// Selects the token that the user authenticated with, as an access token.
    ///
    /// Its expiry is the identity's `exp` claim.
    pub fn own_token() -> Self {
        Self::new(Source::Own, TokenType::AccessToken)
    }

    /// Selects the user's access token of this upstream provider.
    pub fn upstream(provider: impl Into<String>) -> Self {
        let source = Source::UpstreamAccess(provider.into().into());
        Self::new(source, TokenType::AccessToken)
    }

    /// Selects the user's ID token of this upstream provider.
    ///
    /// Its expiry is its own `exp` claim, which is read without verifying the signature.
    pub fn upstream_id_token(provider: impl Into<String>) -> Self {
        let source = Source::UpstreamId(provider.into().into());
        Self::new(source, TokenType::IdToken)
    }

    /// Selects the user's refresh token of this upstream provider, which is taken out of its store when it is needed.
    #[cfg(feature = "incoming")]
    pub(super) fn upstream_refresh_token(provider: &str, upstream: &UpstreamTokens) -> Self {
        let source = Source::UpstreamRefresh {
            provider: provider.into(),
            session_claim: upstream.claim_of_session().map(Into::into),
        };
        Self::new(source, TokenType::RefreshToken)
    }

    /// Sends the same token with another type. For example, a provider's token may be a SAML assertion:
    ///
    /// ```
    /// use tower_identity::{Subject, oauth::TokenType};
    ///
    /// let saml = Subject::upstream("adfs").as_type(TokenType::Saml2);
    /// ```
    #[must_use]
    pub fn as_type(mut self, token_type: TokenType) -> Self {
        self.token_type = token_type;
        self
    }

    /// Sends the same token with the type JWT (`urn:ietf:params:oauth:token-type:jwt`, RFC 8693 §3).
    #[must_use]
    pub fn as_jwt(mut self) -> Self {
        self.token_type = TokenType::Jwt;
        self
    }

    fn new(source: Source, token_type: TokenType) -> Self {
        Self { source, token_type }
    }

    /// Reports a blank provider and an odd type under the name of this setting.
    pub(super) fn check(&self, setting: &'static str, faults: &mut Faults) {
        self.token_type.check(setting, faults);
        if let Some(provider) = self.provider() {
            faults.need_text(format!("{setting}.provider"), provider);
        }
    }

    pub(super) fn is_id_token(&self) -> bool {
        matches!(self.source, Source::UpstreamId(_))
    }

    pub(super) fn token_type(&self) -> &TokenType {
        &self.token_type
    }

    pub(super) fn provider(&self) -> Option<&str> {
        match &self.source {
            Source::Own => None,
            Source::UpstreamAccess(provider) | Source::UpstreamId(provider) => Some(provider),
            #[cfg(feature = "incoming")]
            Source::UpstreamRefresh { provider, .. } => Some(provider),
        }
    }

    pub(super) fn find<'a>(&self, identity: &'a Identity) -> Result<UserToken<'a>, AuthError> {
        let found = match &self.source {
            Source::Own => identity.token().map(|token| UserToken {
                text: Text::Access(token),
                expires_at: expiration(identity.claims()),
            }),
            Source::UpstreamAccess(provider) => {
                identity.upstream(provider).map(|token| UserToken {
                    text: Text::Access(token.access_token()),
                    expires_at: token.expires_at(),
                })
            }
            Source::UpstreamId(provider) => identity
                .upstream(provider)
                .and_then(|token| token.id_token())
                .map(|token| UserToken {
                    text: Text::Id(token),
                    expires_at: None,
                }),
            #[cfg(feature = "incoming")]
            Source::UpstreamRefresh {
                provider,
                session_claim,
            } => match identity.upstream(provider) {
                Some(token) => Some(UserToken {
                    text: Text::Of(Holder {
                        owner: owner(identity, session_claim.as_deref())?,
                        token,
                    }),
                    expires_at: expiration(identity.claims()),
                }),
                None => None,
            },
        };
        found.ok_or_else(|| {
            let provider = self.provider();
            let unavailable = provider.and_then(|name| identity.unavailable_upstream(name));
            unavailable
                .cloned()
                .unwrap_or_else(|| self.missing(identity))
        })
    }

    pub(super) fn describe(&self, scope: CacheScope, role: &str) -> CacheScope {
        let source = match self.source {
            Source::Own => "own token",
            Source::UpstreamAccess(_) => "upstream access token",
            Source::UpstreamId(_) => "upstream ID token",
            #[cfg(feature = "incoming")]
            Source::UpstreamRefresh { .. } => "upstream refresh token",
        };
        let scope = scope
            .field(role, source)
            .field("type", self.token_type.urn());
        match self.provider() {
            Some(provider) => scope.field("provider", provider),
            None => scope,
        }
    }

    #[cold]
    fn missing(&self, identity: &Identity) -> AuthError {
        let message = match self.source {
            Source::Own => {
                "the user's identity has no token of its own to exchange; give it the one that they came with \
                 (`IdentityBuilder::token`), or choose one of an upstream provider (`Subject::upstream`)"
            }
            Source::UpstreamId(_) => {
                "the user has no ID token of this provider to exchange; ask the provider for the scope `openid`, or \
                 check its name"
            }
            _ => {
                "the user has no upstream token of this provider to exchange; have them log in there, or check the \
                 provider's name"
            }
        };
        let error = AuthError::new(AuthErrorKind::MissingToken, message);
        match self.provider() {
            Some(provider) => {
                let url = identity.link_url(provider);
                error.with_interaction(Interaction::link_account(provider, url))
            }
            None => error,
        }
    }
}

impl Default for Subject {
    /// Returns [`Subject::own_token`].
    fn default() -> Self {
        Self::own_token()
    }
}

/// Selects which token is sent as the `actor_token`, for the party that acts for the subject (RFC 8693 §2.1).
///
/// Needs the feature `token-exchange`.
///
/// ```
/// use tower_identity::{Actor, Secret, Subject, oauth::TokenType};
///
/// // The user's own token, where the subject is a token of another provider.
/// let user = Actor::user(Subject::own_token());
///
/// // A token of this application.
/// let token = Secret::new("token-of-the-agent")?;
/// let agent = Actor::supplied(TokenType::AccessToken, move || token.clone());
/// # let _ = (user, agent);
/// # Ok::<(), tower_identity::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct Actor {
    source: ActorSource,
}

#[derive(Clone)]
enum ActorSource {
    User(Subject),
    Supplied {
        token_type: TokenType,
        supply: Arc<dyn Fn() -> Secret + Send + Sync>,
    },
}

impl Actor {
    /// Selects another of the user's tokens, for example their own token if the subject is an upstream token.
    pub fn user(token: Subject) -> Self {
        Self {
            source: ActorSource::User(token),
        }
    }

    /// Selects a token of the application itself.
    ///
    /// `supply` is called for each request, so it should only clone a token that the application already has.
    pub fn supplied(
        token_type: TokenType,
        supply: impl Fn() -> Secret + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: ActorSource::Supplied {
                token_type,
                supply: Arc::new(supply),
            },
        }
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        match &self.source {
            ActorSource::User(token) => token.check("actor", faults),
            ActorSource::Supplied { token_type, .. } => token_type.check("actor", faults),
        }
    }

    pub(super) fn token_type(&self) -> &TokenType {
        match &self.source {
            ActorSource::User(token) => token.token_type(),
            ActorSource::Supplied { token_type, .. } => token_type,
        }
    }

    pub(super) fn find<'a>(&self, identity: &'a Identity) -> Result<UserToken<'a>, AuthError> {
        match &self.source {
            ActorSource::User(token) => token.find(identity),
            ActorSource::Supplied { supply, .. } => Ok(UserToken {
                text: Text::Supplied(supply()),
                expires_at: None,
            }),
        }
    }

    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        match &self.source {
            ActorSource::User(token) => token.describe(scope, "actor"),
            ActorSource::Supplied { token_type, .. } => scope
                .field("actor", "supplied")
                .field("type", token_type.urn()),
        }
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ActorSource::User(token) => f.debug_tuple("Actor::user").field(token).finish(),
            ActorSource::Supplied { token_type, .. } => f
                .debug_struct("Actor::supplied")
                .field("token_type", token_type)
                .finish_non_exhaustive(),
        }
    }
}

/// A token that was found for a request.
pub(super) struct UserToken<'a> {
    text: Text<'a>,
    /// When the token expires, if that is known without decoding it.
    pub(super) expires_at: Option<SystemTime>,
}

enum Text<'a> {
    Access(&'a AccessToken),
    Id(&'a Secret),
    Supplied(Secret),
    /// A token that is not here.
    #[cfg(feature = "incoming")]
    Of(Holder<'a>),
}

/// Stands for a token that is not here: the user or the session whose token it is, and another token of the same account.
#[cfg(feature = "incoming")]
pub(super) struct Holder<'a> {
    pub(super) owner: TokenOwner,
    token: &'a UpstreamToken,
}

#[cfg(feature = "incoming")]
impl Holder<'_> {
    /// The account at the provider, if it is known.
    pub(super) fn account(&self) -> Option<Account> {
        Account::of(self.token)
    }

    /// Another login changes it, so that nothing of the one before is used, also no failure. A refresh does, too.
    fn fingerprint(&self) -> Fingerprint {
        self.beside("token", self.token.access_token().fingerprint())
    }

    /// A refresh changes it only where the account is not known.
    pub(super) fn account_fingerprint(&self) -> Fingerprint {
        match self.account() {
            Some(account) => self.beside("account", account.fingerprint()),
            None => self.fingerprint(),
        }
    }

    fn beside(&self, kind: &str, Fingerprint(other): Fingerprint) -> Fingerprint {
        let owner = self.owner.key().to_bytes();
        Fingerprint::of([b"owner".as_slice(), &owner, kind.as_bytes(), &other])
    }
}

impl UserToken<'_> {
    /// Returns whose token it is, if the token itself is not here.
    #[cfg(feature = "incoming")]
    pub(super) fn holder(&self) -> Option<&Holder<'_>> {
        match &self.text {
            Text::Of(holder) => Some(holder),
            _ => None,
        }
    }

    pub(super) fn expose(&self) -> &str {
        match &self.text {
            #[cfg(feature = "incoming")]
            Text::Of(_) => "",
            Text::Access(token) => token.expose(),
            Text::Id(token) => token.expose(),
            Text::Supplied(token) => token.expose(),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        match &self.text {
            Text::Access(token) => token.fingerprint(),
            Text::Id(token) => token.fingerprint(),
            Text::Supplied(token) => token.fingerprint(),
            #[cfg(feature = "incoming")]
            Text::Of(holder) => holder.fingerprint(),
        }
    }

    /// Returns [`expires_at`](Self::expires_at), or the `exp` claim of an ID token. The end of a refresh token is not
    /// known.
    pub(super) fn decoded_expires_at(&self) -> Option<SystemTime> {
        match &self.text {
            Text::Id(token) => UnverifiedJwt::decode(token.expose())?.expires_at(),
            Text::Access(_) | Text::Supplied(_) => self.expires_at,
            #[cfg(feature = "incoming")]
            Text::Of(_) => None,
        }
    }
}

/// The user whose upstream tokens the identity has, or the session of theirs if the tokens are those of sessions.
#[cfg(feature = "incoming")]
fn owner(identity: &Identity, session_claim: Option<&str>) -> Result<TokenOwner, AuthError> {
    let missing = |message| AuthError::new(AuthErrorKind::MissingToken, message);
    TokenOwner::of_upstream(identity, session_claim).map_err(|fault| match fault {
        NoOwner::NoIssuer(error) => {
            missing("the identity has no issuer, so the user's refresh token cannot be found")
                .with_source(error)
        }
        NoOwner::NoSession => missing(
            "the identity has no session, so the refresh token of the user's session cannot be found",
        ),
    })
}
