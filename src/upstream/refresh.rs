use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{Either, select};
use tokio::time::Instant;

use crate::{
    credential::cache::entry::Obtained,
    error::{AuthError, AuthErrorKind},
    runtime::{sleep, spawn, within},
    upstream::store::{Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens},
};

use super::{
    owner::TokenOwner,
    provider::{Provider, remaining},
    upstream_tokens::IN_DOUBT_FOR,
    upstream_tokens::{Inner, is_of, log_in_again},
};

const REFRESH_LIMIT: Duration = Duration::from_secs(35);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// One refresh: it claims the refresh token, spends it, and stores the successors.
#[derive(Clone)]
pub(super) struct Refresh {
    pub(super) inner: Arc<Inner>,
    pub(super) owner: TokenOwner,
    pub(super) provider: Arc<Provider>,
    pub(super) stored: StoredTokens,
    pub(super) claim: Claim,
}

enum Right {
    Granted(Lease),
    Superseded(StoredTokens),
}

impl Refresh {
    pub(super) async fn run(self) -> Result<Obtained<StoredTokens>, AuthError> {
        let lease = match self.claim().await? {
            Right::Granted(lease) => lease,
            Right::Superseded(newer) => return Ok(self.obtained(newer)),
        };
        let provider = self.provider.name.as_str();
        match self.spend(&lease).await {
            Ok(tokens) => {
                tracing::debug!(provider, "upstream tokens were refreshed");
                let tokens = tokens.completed_by(self.stored.tokens());
                let id_token = self.provider.id_token_expires_at(&tokens);
                if id_token.is_some_and(|end| remaining(end, self.now()).is_none()) {
                    return self.give_up(lease, id_token_not_renewed()).await;
                }
                let successor = StoredTokens::new(&self.owner, tokens);
                let newer = self.conclude(lease, Settlement::Replace(successor.clone()));
                Ok(self.obtained(newer.await?.unwrap_or(successor)))
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the refresh token was refused");
                self.give_up(lease, error).await
            }
            Err(error) => {
                if self.settle(&lease, &Settlement::Release).await.is_err() {
                    self.settle_later(lease, Settlement::Release);
                }
                Err(error)
            }
        }
    }

    /// Waits until the refresh token may be spent, or somebody else's refresh is there.
    async fn claim(&self) -> Result<Right, AuthError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let claimed = match self.ask().await {
                Ok(claimed) => claimed,
                Err(error) => {
                    self.take_back();
                    return Err(error);
                }
            };
            match claimed {
                Claimed::Granted(lease) => return Ok(Right::Granted(lease)),
                Claimed::Superseded(newer) if is_of(&newer, &self.owner, &self.provider.name) => {
                    return Ok(Right::Superseded(newer));
                }
                Claimed::Held(left) => sleep(pause.min(left)).await,
                Claimed::InDoubt(left) => return Err(in_doubt(left)),
                Claimed::Superseded(_) | Claimed::Gone => return Err(log_in_again()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks the provider, and renews the lease until it answers.
    async fn spend(&self, lease: &Lease) -> Result<ProviderTokens, AuthError> {
        let refresher = &self.provider.refresher;
        let refreshing = refresher.refresh(self.stored.tokens(), self.now());
        let refreshing = pin!(within(REFRESH_LIMIT, refreshing));
        let renewing = pin!(self.renew(lease));
        match select(refreshing, renewing).await {
            Either::Left((refreshed, _)) => refreshed.unwrap_or_else(|| Err(no_answer())),
            Either::Right((never, _)) => match never {},
        }
    }

    async fn renew(&self, lease: &Lease) -> Infallible {
        let (store, time) = (&self.inner.store, self.inner.lease_time);
        loop {
            sleep(time / 3).await;
            let renewed = store.renew(&self.owner, &self.provider.name, lease, time);
            if !renewed.await.unwrap_or(true) {
                tracing::debug!("the lease of a refresh was lost");
            }
        }
    }

    /// Lets go of a refresh token that is void. An access token that is still good stays to its end.
    async fn give_up(
        &self,
        lease: Lease,
        error: AuthError,
    ) -> Result<Obtained<StoredTokens>, AuthError> {
        let tokens = self.stored.tokens();
        let is_good = self.provider.expires_at(tokens);
        let is_good = is_good.is_some_and(|end| remaining(end, self.now()).is_some());
        let settlement = if is_good {
            let rest = ProviderTokens::new(tokens.token().clone(), tokens.issued_at());
            Settlement::Replace(StoredTokens::new(&self.owner, rest))
        } else {
            Settlement::Remove
        };
        let newer = self.conclude(lease, settlement).await?;
        newer.map(|newer| self.obtained(newer)).ok_or(error)
    }

    /// Writes what became of the tokens. If somebody else did before, what they wrote is the answer.
    async fn conclude(
        &self,
        mut lease: Lease,
        settlement: Settlement,
    ) -> Result<Option<StoredTokens>, AuthError> {
        loop {
            match self.settle(&lease, &settlement).await {
                Ok(true) => return Ok(None),
                Ok(false) => match self.claim().await? {
                    Right::Granted(another) => lease = another,
                    Right::Superseded(newer) => return Ok(Some(newer)),
                },
                Err(error) => {
                    let provider = self.provider.name.as_str();
                    tracing::warn!(provider, %error, "what a refresh brought is not stored yet");
                    self.settle_later(lease, settlement);
                    return Ok(None);
                }
            }
        }
    }

    fn settle_later(&self, lease: Lease, settlement: Settlement) {
        let refresh = self.clone();
        spawn(until_done(async move || {
            refresh.settle(&lease, &settlement).await.map(drop)
        }));
    }

    /// Ends the claim that the store may have granted, though its answer was lost.
    fn take_back(&self) {
        let refresh = self.clone();
        spawn(until_done(async move || match refresh.ask().await? {
            Claimed::Granted(lease) => refresh.settle(&lease, &Settlement::Release).await.map(drop),
            _ => Ok(()),
        }));
    }

    async fn ask(&self) -> Result<Claimed, AuthError> {
        let store = &self.inner.store;
        store
            .claim(&self.owner, &self.provider.name, &self.claim)
            .await
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<bool, AuthError> {
        let store = &self.inner.store;
        store
            .settle(&self.owner, &self.provider.name, lease, settlement)
            .await
    }

    fn obtained(&self, stored: StoredTokens) -> Obtained<StoredTokens> {
        let expires_at = self.provider.expires_at(stored.tokens());
        let obtained = Obtained::new(stored);
        match expires_at {
            Some(expires_at) => obtained.expires_at(expires_at),
            None => obtained,
        }
    }

    fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }
}

/// Tries until it succeeds, as long as it may.
async fn until_done(attempt: impl AsyncFn() -> Result<(), AuthError>) {
    let started = Instant::now();
    let mut pause = SHORTEST_PAUSE;
    while started.elapsed() < IN_DOUBT_FOR {
        sleep(pause).await;
        if attempt().await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::warn!("the store could not be asked for so long that a refresh was lost");
}

#[cold]
fn id_token_not_renewed() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the provider's ID token has expired, and a refresh does not renew it; have the user log in again",
    )
}

#[cold]
fn in_doubt(left: Duration) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "a refresh was broken off and may have spent the refresh token; it is not presented again, and who began may \
         still come back; otherwise the user has to log in again",
    )
    .with_retry_after(left)
}

#[cold]
fn no_answer() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the refresher did not answer within 35 s; give it a time limit of its own",
    )
}
