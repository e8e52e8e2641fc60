//! Checks the caller of a good token, and loads its upstream tokens.

use std::sync::Arc;

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    oauth::challenge::Scheme,
    upstream::TokenOwner,
};

#[cfg(feature = "dpop")]
use super::{super::dpop::Use, rejected};
use super::{
    Inner, LoginRequired, bindings::Presented, validated_tokens::Validated, validating::Validating,
};

impl Inner {
    /// Refuses a token without a proof where the policy requires one, before the token is read.
    pub(super) fn check_policy(&self, _presented: &Presented) -> Result<(), AuthError> {
        #[cfg(feature = "dpop")]
        if let Some(dpop) = &self.dpop
            && dpop.is_required()
            && _presented.proof().is_none()
        {
            return Err(rejected(
                "a token that is bound to a key is needed, with the scheme DPoP and a proof",
            ));
        }
        Ok(())
    }

    /// Checks the proofs of this request, also where the token is remembered. Then adds the upstream
    /// tokens where there are any to load, else the challenge where one is due.
    pub(super) fn conclude(
        self: &Arc<Self>,
        outcome: Result<Validated, AuthError>,
        presented: &Presented,
    ) -> Validating {
        let used = presented.scheme();
        let checked = outcome.and_then(|validated| {
            presented.check(validated.bindings.as_deref())?;
            Ok(validated)
        });
        let validated = match checked {
            Ok(validated) => validated,
            Err(error) => return Validating::ready(Err(self.refused(error, used))),
        };
        #[cfg(feature = "dpop")]
        if let (Some(dpop), Some(proof)) = (&self.dpop, presented.proof()) {
            match dpop.use_once(proof, self.clock.now()) {
                Use::First => {}
                Use::Refused(error) => {
                    return Validating::ready(Err(self.refused(error, used)));
                }
                Use::Pending(noting) => {
                    let inner = Arc::clone(self);
                    return Validating::pending(async move {
                        match noting.await {
                            Ok(()) => inner.add_upstream(validated, used).await,
                            Err(error) => Err(inner.refused(error, used)),
                        }
                    });
                }
            }
        }
        self.add_upstream(validated, used)
    }

    fn add_upstream(self: &Arc<Self>, validated: Validated, used: Scheme) -> Validating {
        let Validated {
            identity, owner, ..
        } = validated;
        let Some(owner) = owner else {
            return Validating::ready(Ok(identity));
        };
        let inner = Arc::clone(self);
        Validating::pending(async move {
            let outcome = inner.with_upstream(identity, &owner).await;
            outcome.map_err(|error| inner.refused(error, used))
        })
    }

    async fn with_upstream(
        &self,
        user: Identity,
        owner: &TokenOwner,
    ) -> Result<Identity, AuthError> {
        let Some(upstream) = &self.upstream else {
            return Ok(user);
        };
        let tokens = upstream.load_unboxed(owner).await?;
        if self.login_required == LoginRequired::Refused
            && let Some((provider, refusal)) = tokens.login_required().first_key_value()
        {
            let error = AuthError::new(
                AuthErrorKind::Rejected,
                "the caller has to log in again, because an upstream provider's tokens have ended",
            )
            .with_provider(provider);
            return Err(match refusal.interaction() {
                Some(interaction) => error.with_interaction(interaction.clone()),
                None => error,
            });
        }
        tokens.into_identity(&user, owner).map_err(|error| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "the store of upstream tokens has a provider without a name",
            )
            .with_source(error)
        })
    }
}
