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
    secret::Secret,
    upstream::store::{Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens},
};

use super::{
    account::Account,
    owner::TokenOwner,
    provider::{Provider, remaining},
    refresher::Refreshed,
    upstream_tokens::{IN_DOUBT_FOR, Inner, REMEMBERED_FOR, is_of, log_in_again},
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

/// The outcome of a use of the refresh token other than a refresh, and its successor if there is one.
pub(crate) struct Presented<T> {
    pub(crate) outcome: Result<T, AuthError>,
    pub(crate) successor: Option<Secret>,
    /// Of the key that the successor is bound to, if it is.
    pub(crate) thumbprint: Option<Arc<str>>,
}

impl<T> Presented<T> {
    pub(crate) fn refused(error: AuthError) -> Self {
        Self {
            outcome: Err(error),
            successor: None,
            thumbprint: None,
        }
    }
}

enum Right {
    Granted(Lease),
    Superseded(StoredTokens),
    InDoubt(Duration),
    Gone,
}

/// The outcome of a refresh that is not stored yet, and the right to store it.
struct Write {
    claim: Claim,
    lease: Lease,
    settlement: Settlement,
}

enum Written {
    Done,
    Superseded(StoredTokens),
    Gone,
}

impl Refresh {
    pub(super) async fn run(mut self) -> Result<Obtained<StoredTokens>, AuthError> {
        let lease = loop {
            match self.claim().await? {
                Right::Granted(lease) => break lease,
                Right::Superseded(restored) if self.is_older(&restored) => {
                    self.claim = self.inner.claim(&self.provider, &restored);
                }
                Right::Superseded(newer) => return Ok(self.obtained(newer)),
                Right::InDoubt(left) => return Err(in_doubt(left)),
                Right::Gone => return Err(log_in_again()),
            }
        };
        let provider = self.provider.name.as_str();
        match self.spend(&lease).await {
            Ok(Refreshed::Tokens(tokens)) => {
                if Provider::changes_user(self.stored.tokens(), &tokens) {
                    return self.give_up(lease, id_token_of_another_user()).await;
                }
                let tokens = tokens.completed_by(self.stored.tokens());
                let id_token = self.provider.id_token_expires_at(&tokens);
                if id_token.is_some_and(|end| remaining(end, self.now()).is_none()) {
                    return self.give_up(lease, id_token_not_renewed()).await;
                }
                let successor = StoredTokens::new(&self.owner, tokens);
                let newer = self.conclude(lease, Settlement::Replace(successor.clone()));
                let newest = newer.await?.unwrap_or(successor);
                tracing::debug!(provider, "upstream tokens were refreshed");
                Ok(self.obtained(newest))
            }
            Ok(Refreshed::OnlyRefreshToken {
                refresh_token,
                refresh_thumbprint,
                error,
            }) => {
                let previous = self.stored.tokens();
                let rest = previous
                    .clone()
                    .with_refresh_token(refresh_token)
                    .with_refresh_token_bound_to(refresh_thumbprint);
                let rest = StoredTokens::new(&self.owner, rest);
                // The back-off is kept for each version.
                self.inner
                    .refuse(&self.owner, &self.provider, &rest, error.clone());
                let newer = self.conclude(lease, Settlement::Replace(rest)).await?;
                // Only now, because a subscriber may panic.
                tracing::warn!(
                    provider,
                    error = error.in_event(),
                    "a refresh issued a refresh token, and no access token that can be used"
                );
                newer.map(|newer| self.obtained(newer)).ok_or(error)
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the refresh token was refused");
                self.give_up(lease, error).await
            }
            Err(error) => {
                if self.settle(&lease, &Settlement::Release).await.is_err() {
                    self.release_later(lease);
                }
                Err(error)
            }
        }
    }

    /// Presents the refresh token to `present`, under the same lease as a refresh. A successor is stored before the
    /// outcome is returned.
    ///
    /// A refusal does not remove the tokens, because it may concern only this use.
    pub(super) async fn present<T, F, R>(mut self, present: F) -> Result<T, AuthError>
    where
        F: FnOnce(ProviderTokens) -> R,
        R: Future<Output = Presented<T>>,
    {
        let lease = loop {
            match self.claim().await? {
                Right::Granted(lease) => break lease,
                Right::Superseded(other) => {
                    self.claim = self.inner.claim(&self.provider, &other);
                    if !self.is_older(&other) {
                        self.stored = other;
                    }
                }
                Right::InDoubt(left) => return Err(in_doubt(left)),
                Right::Gone => return Err(log_in_again()),
            }
        };
        let tokens = self.stored.tokens();
        let presented = match tokens.refresh_token() {
            Some(_) => {
                let presenting = pin!(within(REFRESH_LIMIT, present(tokens.clone())));
                let renewing = pin!(self.renew(&lease));
                match select(presenting, renewing).await {
                    Either::Left((presented, _)) => presented,
                    Either::Right((never, _)) => match never {},
                }
            }
            None => Some(Presented::refused(log_in_again())),
        };
        let presented = presented.unwrap_or_else(|| Presented::refused(no_answer()));
        let Presented {
            outcome,
            successor,
            thumbprint,
        } = presented;
        match successor {
            Some(successor) => {
                let rest = tokens
                    .clone()
                    .with_refresh_token(successor)
                    .with_refresh_token_bound_to(thumbprint);
                let rest = StoredTokens::new(&self.owner, rest);
                self.conclude(lease, Settlement::Replace(rest)).await?;
            }
            None => {
                if self.settle(&lease, &Settlement::Release).await.is_err() {
                    self.release_later(lease);
                }
            }
        }
        outcome
    }

    /// Claims the refresh token before it is spent. A claim whose answer was lost is taken back.
    async fn claim(&self) -> Result<Right, AuthError> {
        let right = self.right(&self.claim).await;
        if right.is_err() {
            self.take_back();
        }
        right
    }

    /// Waits until the claim is granted, or another party's refresh is there.
    async fn right(&self, claim: &Claim) -> Result<Right, AuthError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.ask(claim).await? {
                Claimed::Granted(lease) => return Ok(Right::Granted(lease)),
                Claimed::Superseded(newer) if is_of(&newer, &self.owner, &self.provider.name) => {
                    return Ok(Right::Superseded(newer));
                }
                Claimed::Held(left) => sleep(pause.min(left)).await,
                Claimed::InDoubt(left) => return Ok(Right::InDoubt(left)),
                Claimed::Superseded(_) | Claimed::Gone => return Ok(Right::Gone),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the store has gone back to tokens that were replaced before, for example because it was restored. Their
    /// refresh token was spent.
    ///
    /// The clock of the replica that stored a login may be behind. So another account is a login, whatever the times. Where
    /// neither has an ID token, the times alone decide.
    fn is_older(&self, restored: &StoredTokens) -> bool {
        let (stored, restored) = (self.stored.tokens(), restored.tokens());
        restored.issued_at() < stored.issued_at()
            && Account::of(stored.token()) == Account::of(restored.token())
    }

    /// Asks the provider, and renews the lease until it answers.
    async fn spend(&self, lease: &Lease) -> Result<Refreshed, AuthError> {
        let refresher = &self.provider.refresher;
        let refreshing = refresher.refresh_for(&self.owner, self.stored.tokens(), self.now());
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

    /// Writes the outcome. If another party wrote before, its tokens are returned.
    ///
    /// If the store cannot be asked, the outcome is written in the background.
    async fn conclude(
        &self,
        lease: Lease,
        settlement: Settlement,
    ) -> Result<Option<StoredTokens>, AuthError> {
        let mut write = Write {
            claim: self.claim.clone(),
            lease,
            settlement,
        };
        match self.write(&mut write).await {
            Ok(written) => {
                self.forget_later();
                match written {
                    Written::Done => Ok(None),
                    Written::Superseded(newer) => Ok(Some(newer)),
                    Written::Gone => Err(log_in_again()),
                }
            }
            Err(error) => {
                self.write_later(write);
                let provider = self.provider.name.as_str();
                tracing::warn!(
                    provider,
                    error = error.in_event(),
                    "the outcome of a refresh is not stored yet"
                );
                Ok(None)
            }
        }
    }

    /// Settles. If the lease was lost, it claims again first: the store may have been restored from before the claim.
    async fn write(&self, write: &mut Write) -> Result<Written, AuthError> {
        while !self.settle(&write.lease, &write.settlement).await? {
            match self.right(&write.claim).await? {
                Right::Granted(another) => write.lease = another,
                Right::Superseded(restored) if self.is_older(&restored) => {
                    write.claim = self.inner.claim(&self.provider, &restored);
                }
                Right::Superseded(newer) => return Ok(Written::Superseded(newer)),
                Right::InDoubt(left) => return Err(in_doubt(left)),
                Right::Gone => return Ok(Written::Gone),
            }
        }
        Ok(Written::Done)
    }

    fn write_later(&self, mut write: Write) {
        let refresh = self.clone();
        spawn(async move {
            let provider = refresh.provider.name.as_str();
            let started = Instant::now();
            let mut pause = SHORTEST_PAUSE;
            while started.elapsed() < IN_DOUBT_FOR {
                sleep(pause).await;
                match refresh.write(&mut write).await {
                    Ok(Written::Done) => return refresh.forget_later(),
                    Ok(Written::Superseded(_)) => {
                        refresh.forget_later();
                        return tracing::warn!(
                            provider,
                            "the outcome of a refresh was not stored, because other tokens were stored before"
                        );
                    }
                    Ok(Written::Gone) => {
                        refresh.forget_later();
                        return tracing::warn!(
                            provider,
                            "the outcome of a refresh was not stored, because the tokens were removed before"
                        );
                    }
                    Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
                }
            }
            tracing::error!(
                provider,
                "the outcome of a refresh could not be stored in time and is lost; the user may have to log in again"
            );
        });
    }

    /// Forgets the tokens that the store has, so that they do not stay in memory after a logout.
    fn forget_later(&self) {
        let refresh = self.clone();
        spawn(async move {
            sleep(REMEMBERED_FOR).await;
            let inner = &refresh.inner;
            inner.forget(&refresh.owner, &refresh.provider, &refresh.stored);
        });
    }

    fn release_later(&self, lease: Lease) {
        let refresh = self.clone();
        spawn(until_done(async move || {
            let released = refresh.settle(&lease, &Settlement::Release);
            released.await.map(drop)
        }));
    }

    /// Ends the claim that the store may have granted, though its answer was lost.
    fn take_back(&self) {
        let refresh = self.clone();
        spawn(until_done(async move || {
            match refresh.ask(&refresh.claim).await? {
                Claimed::Granted(lease) => {
                    let released = refresh.settle(&lease, &Settlement::Release);
                    released.await.map(drop)
                }
                _ => Ok(()),
            }
        }));
    }

    async fn ask(&self, claim: &Claim) -> Result<Claimed, AuthError> {
        let store = &self.inner.store;
        store.claim(&self.owner, &self.provider.name, claim).await
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
    tracing::warn!("the store could not be asked for so long that a claim was left to run out");
}

#[cold]
fn id_token_of_another_user() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the ID token of a refresh has another issuer or subject than the one before (OIDC Core §12.2); have the user \
         log in again",
    )
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
