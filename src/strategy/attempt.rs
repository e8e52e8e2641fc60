use std::sync::atomic::{AtomicU64, Ordering};

static REJECTIONS: AtomicU64 = AtomicU64::new(0);

/// When a request was sent, or a credential was given up: an order of these, in this process.
///
/// Of many calls that are rejected with the same credential, the first has it given up. The others were sent before that:
/// so what is at hand has replaced what they were sent with, and they leave it alone.
///
/// It does not say which credential was sent. A renewal that comes between a request and its rejection may be thrown away
/// with it, which costs one more request to the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(u64);

impl Attempt {
    /// An attempt that begins now.
    pub fn now() -> Self {
        Self(REJECTIONS.load(Ordering::Acquire))
    }

    /// Counts a rejection. It is later than all attempts that began before it, and not later than those that begin now.
    ///
    /// A strategy calls it when it gives up a credential, before that is gone, and keeps the answer under what it keeps the
    /// credential under: a rejection of what was sent before that is no reason to give up another.
    pub fn count_rejection() -> Self {
        Self(REJECTIONS.fetch_add(1, Ordering::AcqRel) + 1)
    }
}
