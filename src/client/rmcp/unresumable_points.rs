use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

const MAX_POINTS: usize = 64;

/// The points at which an event stream is not to be resumed: the next event there is too large, or none at all.
///
/// The SDK ends a stream at such an event only if its own clients found it. Any other error it answers with a reconnect,
/// at once and without end, and the server with the same event.
#[derive(Default)]
pub(super) struct UnresumablePoints {
    /// Hashes: an event id may be as long as an event.
    points: Mutex<VecDeque<u64>>,
    hasher: RandomState,
}

/// Where a reconnect resumes: in a session, after an event.
#[derive(Hash)]
pub(super) struct ResumePoint {
    pub(super) session_id: Option<Arc<str>>,
    pub(super) last_event_id: Option<String>,
}

impl UnresumablePoints {
    pub(super) fn add(&self, point: &ResumePoint) {
        let point = self.hasher.hash_one(point);
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        if points.len() == MAX_POINTS {
            points.pop_front();
        }
        points.push_back(point);
    }

    /// Whether `point` is one. It is only once: a stream that is opened anew gets its chance.
    pub(super) fn take(&self, point: &ResumePoint) -> bool {
        let point = self.hasher.hash_one(point);
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let at = points.iter().position(|&known| known == point);
        at.and_then(|at| points.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(session: &str, event: usize) -> ResumePoint {
        ResumePoint {
            session_id: Some(session.into()),
            last_event_id: Some(event.to_string()),
        }
    }

    #[test]
    fn only_the_last_points_are_kept_each_for_its_own_session() {
        let unresumable = UnresumablePoints::default();
        for event in 0..MAX_POINTS * 2 {
            unresumable.add(&point("s1", event));
        }
        assert_eq!(unresumable.points.lock().unwrap().len(), MAX_POINTS);
        assert!(!unresumable.take(&point("s1", 0)));
        assert!(!unresumable.take(&point("s2", MAX_POINTS)));
        assert!(unresumable.take(&point("s1", MAX_POINTS)));
    }
}
