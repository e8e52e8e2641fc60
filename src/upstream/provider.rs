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

use super::{refresher::Refresher, upstream_tokens::UNKNOWN_LIFETIME};

/// An upstream provider whose tokens a session holds.
#[derive(Clone, Debug)]
pub struct Provider {
    pub(super) name: String,
    pub(super) refresher: Arc<dyn Refresher>,
    pub(super) grace: Duration,
    pub(super) optional: bool,
    uses_id_token: bool,
}

impl Provider {
    /// A provider that every session needs, and how its tokens are refreshed.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `name` is blank.
    pub fn new(
        name: impl Into<String>,
        refresher: impl Refresher + 'static,
    ) -> Result<Self, BuildError> {
        let name = name.into();
        let mut faults = Faults::new("Provider");
        faults.need_text("name", &name);
        faults.check()?;
        Ok(Self {
            name,
            refresher: Arc::new(refresher),
            grace: Duration::ZERO,
            optional: false,
            uses_id_token: false,
        })
    }

    /// Sets for how long the provider accepts a refresh token once more after it was spent. By default not at all.
    ///
    /// Many do, under names such as grace period, reuse interval or rotation overlap, so that an answer that was lost can
    /// be asked for again. Then a replica that dies in the middle of a refresh costs nobody a log-in.
    ///
    /// # Security
    ///
    /// A provider that does not allow it takes a refresh token that comes twice for a theft, and revokes whatever came
    /// of the same log-in (RFC 9700 §4.14.2).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Lets a session be without this provider's tokens.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Says that this provider's ID token is sent: the tokens are refreshed before the `exp` of the ID token too (F36).
    ///
    /// Where a refresh does not renew it, a log-in is needed when it has expired.
    #[must_use]
    pub fn uses_id_token(mut self) -> Self {
        self.uses_id_token = true;
        self
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
