use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

const MAX_POINTS: usize = 64;

/// The points after which the next event is malformed or too large.
///
/// The SDK recognizes such an event only in its own clients. After any other error it resumes the stream at once, and the
/// server sends the same event again, without end.
#[derive(Default)]
pub(super) struct UnresumablePoints {
    /// Hashes, because an event id may be as long as an event.
    points: Mutex<VecDeque<u64>>,
    hasher: RandomState,
}

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

    /// Removes `point` and returns whether it was there, so that a stream that is opened anew gets its chance.
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
