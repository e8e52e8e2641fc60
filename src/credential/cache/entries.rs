use std::{
    any::TypeId,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::secret::AccessToken;

use super::{
    entry::{Entry, Lifespan, Now},
    key::CacheKey,
    single_flight::is_same,
    store::{Leftovers, Store},
};

/// The cached credentials.
///
/// A cache hit reads one place of the map, and follows no pointer to the [`Entry`]. Everything else works on the entry.
pub(super) struct Entries<C> {
    store: Store<Kept<C>>,
}

/// An entry in the map, with a copy of all that a cache hit reads.
pub(super) struct Kept<C> {
    lifespan: Lifespan,
    /// A copy of the entry's, which each change of it is [copied](Entries::copy_refresh_below) to.
    refresh_below: AtomicU64,
    credential: Credential<C>,
}

/// The map clones a value under its lock. So a credential of a foreign type is only reached through the entry.
enum Credential<C> {
    /// A credential of a type of this crate. Its clone has no entry.
    Beside(C, Option<Arc<Entry<C>>>),
    InEntry(Arc<Entry<C>>),
}

impl<C: Clone + 'static> Entries<C> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            store: Store::new(capacity),
        }
    }

    /// The credential, if it needs no refresh.
    #[inline]
    pub(super) fn settled(&self, key: &CacheKey, now: &Now) -> Option<C> {
        let kept = self.store.get(key)?;
        let refresh_below = kept.refresh_below.load(Ordering::Relaxed);
        if kept.lifespan.remaining(now) <= refresh_below {
            return None;
        }
        Some(match kept.credential {
            Credential::Beside(credential, _) => credential,
            Credential::InEntry(entry) => entry.credential.clone(),
        })
    }

    pub(super) fn find(&self, key: &CacheKey) -> Option<Arc<Entry<C>>> {
        self.store
            .visit(key, |kept| kept.entry().cloned())
            .flatten()
    }

    pub(super) fn insert(
        &self,
        key: CacheKey,
        entry: Arc<Entry<C>>,
        leftovers: &mut Leftovers<Kept<C>>,
    ) {
        self.store.insert(key, Kept::new(entry), leftovers);
    }

    /// Copies how long before its end the entry is refreshed to where a cache hit reads it, unless another has taken
    /// the entry's place.
    pub(super) fn copy_refresh_below(&self, key: &CacheKey, entry: &Arc<Entry<C>>) {
        self.store.visit(key, |kept| {
            if is_same(kept.entry(), Some(entry)) {
                let refresh_below = entry.refresh_below();
                kept.refresh_below.store(refresh_below, Ordering::Relaxed);
            }
        });
    }

    #[cfg(feature = "incoming")]
    pub(super) fn remove(&self, key: &CacheKey, leftovers: &mut Leftovers<Kept<C>>) {
        self.store.remove(key, leftovers);
    }

    /// Removes the credential if `is_removed` returns `true` for it, which is called under a lock.
    #[cfg(feature = "incoming")]
    pub(super) fn remove_if(&self, key: &CacheKey, is_removed: impl FnOnce(&C) -> bool) {
        drop(
            self.store
                .remove_if(key, |kept| is_removed(kept.credential())),
        );
    }
}

impl<C: Clone + 'static> Kept<C> {
    fn new(entry: Arc<Entry<C>>) -> Self {
        let is_ours =
            entry.is_cloned_under_lock || TypeId::of::<C>() == TypeId::of::<AccessToken>();
        Self {
            lifespan: entry.lifespan,
            refresh_below: AtomicU64::new(entry.refresh_below()),
            credential: match is_ours {
                true => Credential::Beside(entry.credential.clone(), Some(entry)),
                false => Credential::InEntry(entry),
            },
        }
    }
}

impl<C> Kept<C> {
    fn entry(&self) -> Option<&Arc<Entry<C>>> {
        match &self.credential {
            Credential::Beside(_, entry) => entry.as_ref(),
            Credential::InEntry(entry) => Some(entry),
        }
    }

    #[cfg(feature = "incoming")]
    fn credential(&self) -> &C {
        match &self.credential {
            Credential::Beside(credential, _) => credential,
            Credential::InEntry(entry) => &entry.credential,
        }
    }
}

impl<C: Clone> Clone for Kept<C> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            lifespan: self.lifespan,
            refresh_below: AtomicU64::new(self.refresh_below.load(Ordering::Relaxed)),
            credential: match &self.credential {
                Credential::Beside(credential, _) => Credential::Beside(credential.clone(), None),
                Credential::InEntry(entry) => Credential::InEntry(Arc::clone(entry)),
            },
        }
    }
}
