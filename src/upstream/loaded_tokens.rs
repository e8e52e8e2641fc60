use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::{AuthError, AuthErrorKind, BuildError, Interaction},
    identity::{Identity, Links, Reading, UpstreamToken},
    upstream::{owner::TokenOwner, store::StoredTokens},
};

/// The upstream tokens that [`UpstreamTokens::load`](crate::UpstreamTokens::load) returns.
///
/// Needs the feature `incoming`.
///
/// A provider has either valid tokens, or needs a login, or failed.
///
/// [`UpstreamTokens`](crate::UpstreamTokens) has an example.
#[derive(Clone, Debug)]
pub struct LoadedTokens {
    reading: Reading,
    tokens: BTreeMap<String, UpstreamToken>,
    login_required: BTreeMap<String, AuthError>,
    failed: BTreeMap<String, AuthError>,
    links: Option<Arc<Links>>,
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

    /// The providers at which the user must log in again, each with the error that says so.
    ///
    /// Its [`interaction`](AuthError::interaction) is to link the account, or what the provider itself asked for when it
    /// refused the refresh token.
    pub fn login_required(&self) -> &BTreeMap<String, AuthError> {
        &self.login_required
    }

    /// The providers whose tokens could not be refreshed, with the error. A login need not help.
    pub fn failed(&self) -> &BTreeMap<String, AuthError> {
        &self.failed
    }

    pub(crate) fn into_identity(
        self,
        user: &Identity,
        owner: &TokenOwner,
    ) -> Result<Identity, BuildError> {
        let mut unavailable = self.failed;
        // A strategy that finds no token says that an account has to be linked. What the provider asked for is more.
        unavailable.extend(self.login_required.into_iter().filter(|(_, error)| {
            !matches!(
                error.interaction(),
                None | Some(Interaction::LinkAccount { .. })
            )
        }));
        user.with_upstream(self.reading, self.tokens, unavailable, self.links, owner)
    }

    /// Creates an empty value, to be filled from the response that a store has just given. `links` are where accounts can
    /// be linked.
    pub(super) fn read_now(links: Option<Arc<Links>>) -> Self {
        Self {
            reading: Reading::now(),
            tokens: BTreeMap::new(),
            login_required: BTreeMap::new(),
            failed: BTreeMap::new(),
            links,
        }
    }

    pub(super) fn add(&mut self, provider: String, outcome: Result<StoredTokens, AuthError>) {
        match outcome {
            Ok(stored) => {
                let token = stored.tokens().token().clone();
                self.tokens.insert(provider, token);
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the user has to log in again");
                let mut error = error.with_provider(provider.clone());
                if error.interaction().is_none() {
                    let url = self.links.as_ref().and_then(|links| links.get(&provider));
                    let url = url.map(String::as_str);
                    error = error.with_interaction(Interaction::link_account(&*provider, url));
                }
                self.login_required.insert(provider, error);
            }
            Err(error) => {
                tracing::debug!(provider, kind = ?error.kind(), "no fresh upstream token");
                let error = error.with_provider(provider.clone());
                self.failed.insert(provider, error);
            }
        }
    }
}
