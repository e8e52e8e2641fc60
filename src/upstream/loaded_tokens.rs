use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{AuthError, AuthErrorKind, BuildError},
    identity::{Identity, UpstreamToken},
    upstream::store::StoredTokens,
};

/// What a session has for a request. Each provider is in one of the three.
#[derive(Clone, Debug, Default)]
pub struct LoadedTokens {
    tokens: BTreeMap<String, UpstreamToken>,
    login_required: BTreeSet<String>,
    failed: BTreeMap<String, AuthError>,
}

impl LoadedTokens {
    /// The tokens that are good now, by provider.
    pub fn tokens(&self) -> &BTreeMap<String, UpstreamToken> {
        &self.tokens
    }

    /// The tokens that are good now, by provider, and nothing else.
    pub fn into_tokens(self) -> BTreeMap<String, UpstreamToken> {
        self.tokens
    }

    /// The providers that the user has to log in to again.
    pub fn login_required(&self) -> &BTreeSet<String> {
        &self.login_required
    }

    /// The providers whose tokens could not be refreshed, though a log-in is not known to help.
    pub fn failed(&self) -> &BTreeMap<String, AuthError> {
        &self.failed
    }

    pub(crate) fn into_identity(self, user: &Identity) -> Result<Identity, BuildError> {
        user.with_upstream(self.tokens, self.failed)
    }

    pub(super) fn add(&mut self, provider: String, outcome: Result<StoredTokens, AuthError>) {
        match outcome {
            Ok(stored) => {
                let token = stored.tokens().token().clone();
                self.tokens.insert(provider, token);
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the user has to log in again");
                self.login_required.insert(provider);
            }
            Err(error) => {
                tracing::debug!(provider, kind = ?error.kind(), "no fresh upstream token");
                let error = error.with_provider(provider.clone());
                self.failed.insert(provider, error);
            }
        }
    }
}
