//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`.
//!
//! Text <-> ordered intervals. Counterpart: `indexed_job_utils.go`. What cannot be read is skipped, as upstream does.
//! Invariant: intervals are in order, and there is a gap between any two; memory follows intervals, not indexes.

use std::fmt;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexes(Vec<(usize, usize)>);

// === impl Indexes ===

impl Indexes {
    /// The indexes below `completions` that `text` names.
    pub fn parse(text: &str, completions: usize) -> Indexes {
        let intervals = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let valid = intervals.filter(|(first, last)| first <= last && *first < completions);
        Indexes::of(valid.map(|(first, last): (usize, usize)| (first, last.min(completions - 1))))
    }

    fn of(intervals: impl Iterator<Item = (usize, usize)>) -> Indexes {
        let mut sorted: Vec<(usize, usize)> = intervals.collect();
        sorted.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Indexes(merged)
    }

    pub fn with(&self, more: impl IntoIterator<Item = usize>) -> Indexes {
        Indexes::of(self.0.iter().copied().chain(more.into_iter().map(|index| (index, index))))
    }

    pub fn union(&self, other: &Indexes) -> Indexes {
        Indexes::of(self.0.iter().chain(&other.0).copied())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&self) -> usize {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn contains(&self, index: usize) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && index <= self.0[after - 1].1
    }

    /// How many indexes are in both.
    pub fn overlap(&self, other: &Indexes) -> usize {
        let (mut ours, mut theirs, mut count) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(ours), other.0.get(theirs)) {
            count += (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
            if a.1 < b.1 { ours += 1 } else { theirs += 1 }
        }
        count
    }

    /// The indexes below `completions` that are not here, in order.
    pub fn missing(&self, completions: usize) -> impl Iterator<Item = usize> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|(_, last)| last + 1));
        let ends = self.0.iter().map(|(first, _)| *first).chain(std::iter::once(completions));
        starts.zip(ends).flat_map(move |(start, end)| start..end.min(completions))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, completions, shown) in [
            ("", 9, ""),
            ("0", 9, "0"),
            ("0,1", 9, "0,1"),
            ("0-2,4", 9, "0-2,4"),
            ("0-2,3,7-20", 9, "0-3,7,8"),
            ("a,1,3-b,5-4", 9, "1"),
            ("5", 3, ""),
            ("1", 0, ""),
        ] {
            assert_eq!(Indexes::parse(text, completions).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_and_what_is_missing() {
        let some = Indexes::parse("1-3,6", 10);
        assert_eq!(some.count(), 4);
        let inside: Vec<usize> = (0..10).filter(|index| some.contains(*index)).collect();
        assert_eq!(inside, [1, 2, 3, 6]);
        assert_eq!(some.missing(9).collect::<Vec<_>>(), [0, 4, 5, 7, 8]);
        assert_eq!(some.missing(3).collect::<Vec<_>>(), [0]);
        assert_eq!(Indexes::default().missing(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(some.with([5, 0, 9]).to_string(), "0-3,5,6,9");
        assert_eq!(some.union(&Indexes::parse("4-5", 10)).to_string(), "1-6");
        assert_eq!(some.overlap(&Indexes::parse("0-1,3,5-9", 10)), 3);
    }
}
