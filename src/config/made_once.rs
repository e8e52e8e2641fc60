use std::sync::{Mutex, PoisonError};

/// Keeps what was made from a part of the configuration, so that the next configuration gets the same.
pub(super) struct MadeOnce<C, T> {
    made: Mutex<Vec<(C, T)>>,
    /// Whether both parts make the same thing.
    is_same: fn(&C, &C) -> bool,
}

impl<C: Clone, T: Clone> MadeOnce<C, T> {
    pub(super) fn new(is_same: fn(&C, &C) -> bool) -> Self {
        Self {
            made: Mutex::default(),
            is_same,
        }
    }

    /// The product of an earlier call.
    pub(super) fn known(&self, config: &C) -> Option<T> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        self.find(&made, config)
    }

    /// Keeps what was made of this, unless there is something by now. All get what is kept, for example so that the key that
    /// is published is the one that signs, also where its file is replaced.
    pub(super) fn keep(&self, config: &C, new: T) -> T {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = self.find(&made, config) {
            return kept;
        }
        made.push((config.clone(), new.clone()));
        new
    }

    fn find(&self, made: &[(C, T)], config: &C) -> Option<T> {
        let mut made = made.iter();
        let found = made.find(|(known, _)| (self.is_same)(known, config));
        found.map(|(_, made)| made.clone())
    }
}
