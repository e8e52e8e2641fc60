use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    credential::cache::entry::Windows,
    error::{BuildError, Faults},
    oauth::unverified_jwt::UnverifiedJwt,
    upstream::store::{ProviderTokens, StoredTokens},
};

#[cfg(feature = "linking")]
use super::oauth_provider::OAuthProvider;
use super::{account::Account, refresher::Refresher, upstream_tokens::UNKNOWN_LIFETIME};

/// A provider of upstream tokens, and how its tokens are refreshed.
///
/// Needs the feature `incoming`.
///
/// For an example see [`UpstreamTokens`](crate::UpstreamTokens).
#[derive(Clone, Debug)]
pub struct Provider {
    pub(super) name: String,
    pub(super) refresher: Arc<dyn Refresher>,
    pub(super) grace: Duration,
    pub(super) optional: bool,
    uses_id_token: bool,
    #[cfg(feature = "linking")]
    pub(super) linked_by: Option<OAuthProvider>,
}

impl Provider {
    /// Starts a provider with this name, whose tokens `refresher` refreshes.
    pub fn builder(
        name: impl Into<String>,
        refresher: impl Refresher + 'static,
    ) -> ProviderBuilder {
        ProviderBuilder {
            provider: Self {
                name: name.into(),
                refresher: Arc::new(refresher),
                grace: Duration::ZERO,
                optional: false,
                uses_id_token: false,
                #[cfg(feature = "linking")]
                linked_by: None,
            },
        }
    }

    /// When the first of the tokens that are used expires.
    pub(super) fn expires_at(&self, tokens: &ProviderTokens) -> Option<SystemTime> {
        let access_token = tokens.token().expires_at().or_else(|| {
            let can_be_renewed = tokens.refresh_token().is_some();
            let unknown = tokens.issued_at().checked_add(UNKNOWN_LIFETIME);
            unknown.filter(|_| can_be_renewed)
        });
        let id_token = self.id_token_expires_at(tokens);
        access_token.into_iter().chain(id_token).min()
    }

    pub(super) fn id_token_expires_at(&self, tokens: &ProviderTokens) -> Option<SystemTime> {
        let id_token = tokens.token().id_token();
        id_token
            .filter(|_| self.uses_id_token)
            .and_then(|id_token| UnverifiedJwt::decode(id_token.expose()))
            .and_then(|id_token| id_token.expires_at())
    }

    /// Whether the ID token of a refresh is of another user than the one before (OIDC Core §12.2). If the one before cannot
    /// be read, for example because it is encrypted, nothing can be compared.
    pub(super) fn changes_user(previous: &ProviderTokens, refreshed: &ProviderTokens) -> bool {
        match Account::of(previous.token()) {
            Some(previous) if refreshed.token().id_token().is_some() => {
                Account::of(refreshed.token()) != Some(previous)
            }
            _ => false,
        }
    }

    pub(super) fn is_expired(&self, stored: &StoredTokens, now: SystemTime) -> bool {
        let expires_at = self.expires_at(stored.tokens());
        expires_at.is_some_and(|end| remaining(end, now).is_none())
    }

    pub(super) fn freshness(&self, stored: &StoredTokens, now: SystemTime) -> Freshness {
        let tokens = stored.tokens();
        let Some(expires_at) = self.expires_at(tokens) else {
            return Freshness::Settled;
        };
        let Some(remaining) = remaining(expires_at, now) else {
            return Freshness::Expired;
        };
        let lifetime = expires_at.duration_since(tokens.issued_at());
        let windows = Windows::of(lifetime.unwrap_or_default(), stored.version().jitter());
        if remaining <= windows.mandatory {
            Freshness::Mandatory
        } else if remaining <= windows.advisory {
            Freshness::Advisory
        } else {
            Freshness::Settled
        }
    }
}

/// Builds a [`Provider`].
///
/// Needs the feature `incoming`.
///
/// [`UpstreamTokens`](crate::UpstreamTokens) has an example.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before `build`"]
pub struct ProviderBuilder {
    provider: Provider,
}

impl ProviderBuilder {
    /// Sets how long the provider accepts a used refresh token once more. By default it does not.
    ///
    /// Many providers do, so that a client can ask for a lost answer again. They call it grace period, reuse interval or
    /// rotation overlap. With it, no user must log in because a replica died in the middle of a refresh.
    ///
    /// # Security
    ///
    /// A provider without a grace period takes a second use of a refresh token for theft, and revokes all tokens of the
    /// same login (RFC 9700 §4.14.2). Set this only if the provider's documentation says so.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.provider.grace = grace;
        self
    }

    /// Makes the provider optional: a session without its tokens needs no login. By default every session needs a login
    /// at the provider.
    pub fn optional(mut self) -> Self {
        self.provider.optional = true;
        self
    }

    /// Says that a strategy sends this provider's ID token. The tokens are then refreshed before the `exp` of the ID token
    /// too.
    ///
    /// If a refresh does not renew the ID token, the user must log in again when it has expired.
    pub fn uses_id_token(mut self) -> Self {
        self.provider.uses_id_token = true;
        self
    }

    #[cfg(feature = "linking")]
    pub(super) fn linked_by(mut self, client: OAuthProvider) -> Self {
        self.provider.linked_by = Some(client);
        self
    }

    /// Makes the provider.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `name` is blank.
    pub fn build(self) -> Result<Provider, BuildError> {
        let mut faults = Faults::new("Provider");
        faults.need_text("name", &self.provider.name);
        faults.check()?;
        Ok(self.provider)
    }
}

pub(super) enum Freshness {
    Settled,
    Advisory,
    Mandatory,
    Expired,
}

pub(super) fn remaining(end: SystemTime, now: SystemTime) -> Option<Duration> {
    let remaining = end.duration_since(now).ok()?;
    Some(remaining).filter(|remaining| !remaining.is_zero())
}
