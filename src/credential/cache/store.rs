use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter, sync::Cache};

use super::key::CacheKey;

/// A bounded map. Its locks are never held while a value is dropped.
pub(crate) struct Store<V> {
    values: Cache<CacheKey, V, UnitWeighter, DefaultHashBuilder, Collect>,
}

/// The entries that a [`Store`] no longer holds. Drop them where no lock is held, because a value may run foreign code
/// when dropped.
pub(crate) type Leftovers<V> = Vec<(CacheKey, V)>;

impl<V: Clone> Store<V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            values: Cache::with(
                capacity,
                capacity as u64,
                UnitWeighter,
                DefaultHashBuilder::default(),
                Collect,
            ),
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: &CacheKey) -> Option<V> {
        self.values.get(key)
    }

    /// Like [`get`](Self::get), and does not count as a use.
    pub(super) fn peek(&self, key: &CacheKey) -> Option<V> {
        self.values.peek(key)
    }

    pub(crate) fn insert(&self, key: CacheKey, value: V, leftovers: &mut Leftovers<V>) {
        self.values.insert_with_lifecycle(key, value, leftovers);
    }

    pub(crate) fn remove(&self, key: &CacheKey, leftovers: &mut Leftovers<V>) {
        leftovers.extend(self.values.remove(key));
    }

    /// Calls `visit` with the value, under a lock. It does not count as a use.
    pub(super) fn visit<R>(&self, key: &CacheKey, visit: impl FnOnce(&V) -> R) -> Option<R> {
        let mut result = None;
        self.values.remove_if(key, |value| {
            result = Some(visit(value));
            false
        });
        result
    }

    /// Removes the value if `is_removed` returns `true` for it.
    #[cfg(feature = "incoming")]
    pub(super) fn remove_if(
        &self,
        key: &CacheKey,
        is_removed: impl FnOnce(&V) -> bool,
    ) -> Option<(CacheKey, V)> {
        self.values.remove_if(key, is_removed)
    }
}

#[derive(Clone)]
struct Collect;

impl<V> Lifecycle<CacheKey, V> for Collect {
    type RequestState = Leftovers<V>;

    fn on_evict(&self, leftovers: &mut Self::RequestState, key: CacheKey, value: V) {
        leftovers.push((key, value));
    }
}
