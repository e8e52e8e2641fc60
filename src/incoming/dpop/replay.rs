use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[cfg(feature = "redis")]
use crate::telemetry::RareWarning;
use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::http_client::BoxFuture,
    runtime::{Unfinished, bounded},
    upstream::UpstreamFuture,
};

use super::{
    memory::{Memorized, ProofMemory},
    proof::Proof,
    verifier::bad_proof,
};

/// A store that does not answer within this time is not waited for.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// By how much a replica's clock may be behind the clock of the store.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);
/// How long after the check of its proof a request may wait, for example for an introspection.
const LONGEST_VALIDATION: Duration = Duration::from_secs(60);

/// Remembers the DPoP proofs that were used, for all replicas that share it (RFC 9449 §11.1).
///
/// Needs the features `dpop` and `incoming`.
///
/// [`RedisStore`](crate::RedisStore) is one (feature `redis`). Implement the trait for another database:
///
/// ```
/// use std::time::SystemTime;
/// use tower_identity::{
///     AuthError, AuthErrorKind,
///     incoming::ProofStore,
///     upstream::UpstreamFuture,
/// };
///
/// # #[derive(Debug)]
/// # struct Database;
/// # impl Database {
/// #     async fn insert_new(&self, _: &[u8], _: SystemTime) -> std::io::Result<bool> { Ok(true) }
/// # }
/// #[derive(Debug)]
/// struct Proofs {
///     database: Database,
/// }
///
/// impl ProofStore for Proofs {
///     fn use_once<'a>(
///         &'a self,
///         proof: [u8; 32],
///         until: SystemTime,
///     ) -> UpstreamFuture<'a, bool> {
///         Box::pin(async move {
///             // Fails if `until` has passed.
///             let inserted = self.database.insert_new(&proof, until).await;
///             inserted.map_err(|error| {
///                 let message = "the store of DPoP proofs cannot be asked";
///                 AuthError::new(AuthErrorKind::Unavailable, message)
///                     .with_source(error)
///             })
///         })
///     }
/// }
/// ```
pub trait ProofStore: fmt::Debug + Send + Sync {
    /// Notes that a proof was used, and remembers it until the clock of the store says `until`. Returns `false` if it was
    /// noted before.
    ///
    /// `proof` is a SHA-256 sum of the proof's key and its `jti`. Of several calls with the same one, on any replica, one
    /// gets `true`: compare and write in one step.
    ///
    /// By the clock of the store, and not by that of a replica, a proof is remembered for as long as it is accepted,
    /// however wrong the clocks of the replicas are, or were. It takes one rule more: if `until` has passed, an earlier use
    /// may have been forgotten, so fail. `until` is two minutes later than the last moment at which the proof is accepted.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](AuthErrorKind::Unavailable) or [`Configuration`](AuthErrorKind::Configuration) if it is not known
    /// whether the proof was used. The request is then refused with 503 or 500. A call that panics, or takes longer than
    /// 10 s, counts as `Unavailable`.
    fn use_once<'a>(&'a self, proof: [u8; 32], until: SystemTime) -> UpstreamFuture<'a, bool>;
}

impl<S: ProofStore + ?Sized> ProofStore for Arc<S> {
    fn use_once<'a>(&'a self, proof: [u8; 32], until: SystemTime) -> UpstreamFuture<'a, bool> {
        (**self).use_once(proof, until)
    }
}

#[cfg(feature = "redis")]
impl ProofStore for crate::RedisStore {
    fn use_once<'a>(&'a self, proof: [u8; 32], until: SystemTime) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            // By it the store knows a call that is made once more because its answer was lost.
            let mut attempt = [0; 16];
            getrandom::fill(&mut attempt).map_err(|error| {
                let message =
                    "the operating system has no random numbers, so no DPoP proof can be noted";
                AuthError::new(AuthErrorKind::Configuration, message).with_source(error)
            })?;
            let attempt = u128::from_be_bytes(attempt);
            let is_first = self.use_until(proof, attempt, milliseconds(until)).await?;
            is_first.ok_or_else(|| {
                static REFUSED: RareWarning = RareWarning::new();
                not_known(
                    "the clock of this server is behind the clock of Redis, or the validation took long, so it is not known \
                     whether a DPoP proof was used before",
                    REFUSED.count().is_some(),
                )
            })
        })
    }
}

/// Where used proofs are remembered.
#[derive(Clone, Debug)]
pub(super) enum Replay {
    Memory(Arc<ProofMemory>),
    Store(Arc<dyn ProofStore>),
}

/// The use of a proof.
pub(in crate::incoming) enum Use {
    First,
    Refused(AuthError),
    /// The store is being asked.
    Pending(BoxFuture<Result<(), AuthError>>),
}

impl Replay {
    /// Notes the use of a proof that is accepted for `window` from when it was made.
    pub(super) fn note(&self, proof: &Proof, now: SystemTime, window: Duration) -> Use {
        match self {
            Self::Memory(memory) => {
                let (issued_at, now) = (milliseconds(proof.issued_at), milliseconds(now));
                match memory.note(&proof.id, issued_at, now, window) {
                    Memorized::New => Use::First,
                    Memorized::Seen => Use::Refused(used_before()),
                    Memorized::Unknown { last, is_to_warn } => {
                        let left = last.saturating_sub(now).saturating_add(1);
                        let error = not_known(
                            "the clock of this server was set back, or the validation took long, so it is not known whether a \
                             DPoP proof was used before",
                            is_to_warn,
                        );
                        Use::Refused(error.with_retry_after(Duration::from_millis(left)))
                    }
                    Memorized::Full => Use::Refused(full()),
                }
            }
            Self::Store(store) => {
                let accepted_for = window + CLOCK_DIFFERENCE + LONGEST_VALIDATION;
                let until = proof.issued_at.checked_add(accepted_for).unwrap_or(now);
                let (store, id) = (Arc::clone(store), proof.id);
                Use::Pending(Box::pin(async move {
                    let noted = bounded(TIME_LIMIT, async move { store.use_once(id, until).await });
                    match noted.await {
                        Ok(Ok(true)) => Ok(()),
                        Ok(Ok(false)) => Err(used_before()),
                        Ok(Err(error)) => Err(unavailable(error)),
                        Err(Unfinished::Panicked) => Err(no_answer("panicked")),
                        Err(Unfinished::Late) => Err(no_answer("did not answer within 10 s")),
                    }
                }))
            }
        }
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cold]
fn used_before() -> AuthError {
    bad_proof("the proof was used before")
}

/// The caller did nothing wrong, and another login does not help.
#[cold]
fn unavailable(error: AuthError) -> AuthError {
    match error.kind() {
        AuthErrorKind::Unavailable | AuthErrorKind::Configuration => error,
        _ => no_answer("failed").with_source(error),
    }
}

#[cold]
fn no_answer(fault: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        format!(
            "the store of DPoP proofs {fault}, so it is not known whether a proof was used before"
        ),
    )
}

/// The caller did nothing wrong, and its next proof may pass.
#[cold]
fn not_known(fault: &'static str, is_to_warn: bool) -> AuthError {
    if is_to_warn {
        tracing::warn!("{fault}");
    }
    AuthError::new(AuthErrorKind::Unavailable, fault)
}

#[cold]
fn full() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the memory of DPoP proofs is full; limit the rate of requests, or set a larger `proof_memory`",
    )
}
