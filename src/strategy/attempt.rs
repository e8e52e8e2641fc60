use std::sync::atomic::{AtomicU64, Ordering};

static REJECTIONS: AtomicU64 = AtomicU64::new(0);

/// When a request was sent, or a credential asked for: after how many rejections, in this process.
///
/// Of many calls that are rejected with the same credential, the first has it replaced. The others left before that, and
/// what replaced it was asked for after: so they know that it is fresh, and leave it alone.
///
/// It does not say which credential was sent. A renewal that comes between a request and its rejection may be thrown away
/// with it, which costs one more request to the issuer. And a credential that was asked for when the request had set out
/// already, and another one had been rejected since, is taken for what replaced that: if the backend rejects it, the 401
/// goes to the caller, and the next call has it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(u64);

impl Attempt {
    /// An attempt that begins now.
    pub fn now() -> Self {
        Self(REJECTIONS.load(Ordering::Acquire))
    }

    /// Counts a rejection: what is asked for from now on comes after it.
    ///
    /// A strategy calls it when it gives up a credential, before that is gone.
    pub fn count_rejection() {
        REJECTIONS.fetch_add(1, Ordering::AcqRel);
    }
}
