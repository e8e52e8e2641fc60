use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::silence::Patience;

const MAX_POINTS: usize = 1024;

/// The points of event streams at which the SDK would go on without end.
///
/// It opens a stream anew after every point, however often that fails.
#[derive(Default)]
pub(super) struct ResumePoints {
    /// Hashes, because an event id may be as long as an event.
    points: Mutex<VecDeque<(u64, Resumption)>>,
    hasher: RandomState,
}

#[derive(Clone, Hash)]
pub(super) struct ResumePoint {
    pub(super) session_id: Option<Arc<str>>,
    pub(super) last_event_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumption {
    /// The next event is malformed or too large. The SDK recognizes such an event only in its own clients, and the server
    /// sends the same one again.
    Never,
    /// A call waits for its answer there, until then, and as long as it has patience.
    Until(Instant, Patience),
}

impl ResumePoints {
    pub(super) fn add(&self, point: &ResumePoint, resumption: Resumption) {
        let point = self.hasher.hash_one(point);
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = points.iter_mut().find(|(known, _)| *known == point) {
            *known = resumption;
            return;
        }
        if points.len() == MAX_POINTS {
            points.pop_front();
        }
        points.push_back((point, resumption));
    }

    /// Returns what is known of `point`. It removes [`Resumption::Never`], so that a stream that is opened anew gets its
    /// chance.
    pub(super) fn take(&self, point: &ResumePoint) -> Option<Resumption> {
        let point = self.hasher.hash_one(point);
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let at = points.iter().position(|&(known, _)| known == point)?;
        match points.get(at)?.1 {
            Resumption::Never => points.remove(at).map(|(_, resumption)| resumption),
            // A second stream may end there, if the event ids of the server are not unique.
            until => Some(until),
        }
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
        let points = ResumePoints::default();
        for event in 0..MAX_POINTS * 2 {
            points.add(&point("s1", event), Resumption::Never);
        }
        assert_eq!(points.points.lock().unwrap().len(), MAX_POINTS);
        assert_eq!(points.take(&point("s1", 0)), None);
        assert_eq!(points.take(&point("s2", MAX_POINTS)), None);
        let kept = points.take(&point("s1", MAX_POINTS));
        assert_eq!(kept, Some(Resumption::Never));
    }
}
