use std::{
    any::TypeId,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::secret::AccessToken;

use super::{
    entry::{End, Entry, Now},
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

/// An entry in the map. The map clones it under its lock.
pub(super) enum Kept<C> {
    /// A credential of a type of this crate, with a copy of all that a cache hit reads.
    Beside {
        credential: C,
        settled_until: End,
        /// Whether a cache hit must ask the entry itself, because its refresh started, failed or was forced.
        is_changed: AtomicBool,
        /// `None` in a clone. Once the entry has changed, a clone is `InEntry`.
        entry: Option<Arc<Entry<C>>>,
    },
    /// A credential of a foreign type, whose `Clone` may not run under the lock.
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
        match self.store.get(key)? {
            Kept::Beside {
                credential,
                settled_until,
                ..
            } => settled_until.is_ahead_of(now).then_some(credential),
            Kept::InEntry(entry) => entry.is_settled(now).then(|| entry.credential.clone()),
        }
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

    /// Has cache hits ask the entry itself, because its refresh started, failed or was forced.
    pub(super) fn changed(&self, key: &CacheKey, changed: &Arc<Entry<C>>) {
        self.store.visit(key, |kept| {
            if let Kept::Beside {
                is_changed, entry, ..
            } = kept
                && is_same(entry.as_ref(), Some(changed))
            {
                is_changed.store(true, Ordering::Relaxed);
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
        match entry.settled_until() {
            Some(settled_until) if is_ours => Self::Beside {
                credential: entry.credential.clone(),
                settled_until,
                is_changed: AtomicBool::new(false),
                entry: Some(entry),
            },
            _ => Self::InEntry(entry),
        }
    }
}

impl<C> Kept<C> {
    fn entry(&self) -> Option<&Arc<Entry<C>>> {
        match self {
            Self::Beside { entry, .. } => entry.as_ref(),
            Self::InEntry(entry) => Some(entry),
        }
    }

    #[cfg(feature = "incoming")]
    fn credential(&self) -> &C {
        match self {
            Self::Beside { credential, .. } => credential,
            Self::InEntry(entry) => &entry.credential,
        }
    }
}

impl<C: Clone> Clone for Kept<C> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Beside {
                is_changed,
                entry: Some(entry),
                ..
            } if is_changed.load(Ordering::Relaxed) => Self::InEntry(Arc::clone(entry)),
            Self::Beside {
                credential,
                settled_until,
                ..
            } => Self::Beside {
                credential: credential.clone(),
                settled_until: *settled_until,
                is_changed: AtomicBool::new(false),
                entry: None,
            },
            Self::InEntry(entry) => Self::InEntry(Arc::clone(entry)),
        }
    }
}
