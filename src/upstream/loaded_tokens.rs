use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{AuthError, AuthErrorKind, BuildError},
    identity::{Identity, UpstreamToken},
    upstream::store::StoredTokens,
};

/// The upstream tokens that [`UpstreamTokens::load`](crate::UpstreamTokens::load) returns.
///
/// A provider has either valid tokens, or needs a login, or failed.
#[derive(Clone, Debug, Default)]
pub struct LoadedTokens {
    tokens: BTreeMap<String, UpstreamToken>,
    login_required: BTreeSet<String>,
    failed: BTreeMap<String, AuthError>,
}

impl LoadedTokens {
    /// The valid tokens, by provider.
    pub fn tokens(&self) -> &BTreeMap<String, UpstreamToken> {
        &self.tokens
    }

    /// Like [`tokens`](Self::tokens), without a clone.
    pub fn into_tokens(self) -> BTreeMap<String, UpstreamToken> {
        self.tokens
    }

    /// The providers at which the user must log in again.
    pub fn login_required(&self) -> &BTreeSet<String> {
        &self.login_required
    }

    /// The providers whose tokens could not be refreshed, with the error. A login need not help.
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
