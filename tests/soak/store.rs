//! The gateways' store of upstream tokens, and how many refreshes it saw begin.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::support::delegated_store::delegate_to_store;
use tower_identity::{
    RedisStore, UpstreamTokenStore,
    upstream::{Claim, Claimed, Lease, Settlement, StoredTokens, TokenOwner, UpstreamFuture},
};

/// Counts the refreshes of upstream tokens that began. Each claims as another holder.
#[derive(Debug, Default)]
pub(crate) struct RefreshCount {
    count: AtomicU64,
    holders: Mutex<[HashSet<u128>; 2]>,
    turned: Mutex<Option<Instant>>,
}

impl RefreshCount {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// A holder is known for three minutes at least, and asks for two at the most.
    fn claims(&self, holder: u128) {
        let mut turned = self.turned.lock().unwrap();
        let mut holders = self.holders.lock().unwrap();
        if turned.is_none_or(|turned| turned.elapsed() > Duration::from_secs(180)) {
            *turned = Some(Instant::now());
            holders.swap(0, 1);
            holders[0].clear();
        }
        let [new, old] = &mut *holders;
        if !old.contains(&holder) && new.insert(holder) {
            self.count.fetch_add(1, Relaxed);
        }
    }
}

#[derive(Debug)]
pub(crate) struct ObservedStore {
    pub(crate) store: RedisStore,
    pub(crate) refreshes: Arc<RefreshCount>,
}

impl UpstreamTokenStore for ObservedStore {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        self.store.load(owner)
    }

    delegate_to_store!(store);

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        self.refreshes.claims(claim.holder());
        self.store.claim(owner, provider, claim)
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        self.store.renew(owner, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        self.store.settle(owner, provider, lease, settlement)
    }
}
