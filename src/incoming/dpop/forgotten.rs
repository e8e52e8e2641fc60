/// In milliseconds. Spans that are no further apart are joined, because most clients write whole seconds.
const CLOSE: u64 = 1000;
/// The most spans. A clock that is set a few times makes fewer.
const MOST: usize = 16;

/// The times of the proofs that were forgotten: a few spans that cover all of them, and as little else as can be.
#[derive(Default)]
pub(super) struct Forgotten {
    /// The first and the last time of each, in milliseconds since 1970, in order.
    spans: Vec<(u64, u64)>,
}

impl Forgotten {
    pub(super) fn add(&mut self, time: u64) {
        if self.span_with(time).is_some() {
            return;
        }
        let at = self.spans.partition_point(|(first, _)| *first < time);
        self.spans.insert(at, (time, time));
        while let Some((at, gap)) = self.nearest()
            && (gap <= CLOSE || self.spans.len() > MOST)
        {
            self.join_next(at);
        }
    }

    /// The last moment of the span that has this time.
    pub(super) fn span_with(&self, time: u64) -> Option<u64> {
        let mut newest_first = self.spans.iter().rev();
        let (_, last) = newest_first.find(|(first, _)| *first <= time)?;
        (time <= *last).then_some(*last)
    }

    /// The two spans that are nearest to each other: where the first of them is, and the gap.
    fn nearest(&self) -> Option<(usize, u64)> {
        let pairs = self.spans.iter().zip(self.spans.iter().skip(1));
        let gaps = pairs.map(|((_, last), (first, _))| first.saturating_sub(*last));
        gaps.enumerate().min_by_key(|(_, gap)| *gap)
    }

    fn join_next(&mut self, at: usize) {
        let (_, end) = self.spans.remove(at + 1);
        if let Some((_, last)) = self.spans.get_mut(at) {
            *last = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_forgotten_time_is_left_out_and_there_are_few_spans(times in prop::collection::vec(0..100_000u64, 0..200)) {
            let mut forgotten = Forgotten::default();
            for (number, time) in times.iter().enumerate() {
                forgotten.add(*time);
                prop_assert!(forgotten.spans.len() <= MOST);
                prop_assert!(forgotten.spans.is_sorted_by(|one, other| one.1 < other.0));
                for earlier in times.iter().take(number + 1) {
                    prop_assert!(forgotten.span_with(*earlier).is_some_and(|last| last >= *earlier));
                }
            }
        }

        #[test]
        fn a_gap_that_is_wider_than_all_others_stays_open(
            early in prop::collection::vec(0..100_000u64, 0..200),
            late in prop::collection::vec(300_000..400_000u64, 0..200),
        ) {
            let mut forgotten = Forgotten::default();
            for time in early.iter().chain(&late) {
                forgotten.add(*time);
            }
            for time in [100_000, 200_000, 299_999] {
                prop_assert_eq!(forgotten.span_with(time), None);
            }
        }
    }
}
