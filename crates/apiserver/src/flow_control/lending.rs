//! How priority levels share seats: who lends, who borrows.
//!
//! What each level may have at least and at most, and what it wants -> its limit for now. Every level wants at least what
//! it was seen to use; what is left over is handed out in proportion. Counterpart: `conc_alloc.go`.
//! Invariant: no level gets less than its minimum or more than its maximum.

/// One level's part of the problem, in seats.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// What is never lent.
    pub min: usize,
    /// The configured share.
    pub nominal: usize,
    /// The configured share and all that may be borrowed.
    pub max: usize,
    /// The most that was used or waited for since limits were last set.
    pub high: usize,
}

/// Halvings of the interval that holds the common factor: more than a float can tell apart.
const STEPS: usize = 60;

/// Limits that add up to `total`, rounding apart, in the order of `demands`.
pub fn allocate(total: usize, demands: &[Demand]) -> Vec<usize> {
    let needed: usize = demands.iter().map(Demand::wanted).sum();
    // When even the wants do not fit, only the minimum is sure.
    let floor = |demand: &Demand| if needed <= total { demand.wanted() } else { demand.min };
    let at = |factor: f64, demand: &Demand| {
        (demand.target() * factor).clamp(floor(demand) as f64, demand.max.max(demand.min) as f64)
    };
    let (mut low, mut high) = (0.0, total as f64 + 1.0);
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        let sum: f64 = demands.iter().map(|demand| at(middle, demand)).sum();
        if sum > total as f64 { high = middle } else { low = middle }
    }
    demands.iter().map(|demand| at(low, demand).round() as usize).collect()
}

// === impl Demand ===

impl Demand {
    /// Seats a level has a right to: what it uses, up to its share, and what it never lends.
    fn wanted(&self) -> usize {
        self.high.min(self.nominal).max(self.min)
    }

    /// What the leftovers are proportional to; a level that asks for nothing still counts for one.
    fn target(&self) -> f64 {
        self.high.max(self.min).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(min: usize, nominal: usize, max: usize, high: usize) -> Demand {
        Demand { min, nominal, max, high }
    }

    #[test]
    fn an_idle_level_lends_what_it_may_to_a_busy_one() {
        let limits = allocate(200, &[level(10, 100, 200, 0), level(50, 100, 200, 500)]);
        assert_eq!(limits, [10, 190]);
    }

    #[test]
    fn a_level_that_wants_its_share_gets_it_back() {
        assert_eq!(
            allocate(200, &[level(10, 100, 200, 100), level(50, 100, 200, 500)]),
            [100, 100]
        );
    }

    #[test]
    fn nobody_borrows_more_than_allowed() {
        let limits = allocate(200, &[level(10, 100, 120, 500), level(0, 100, 200, 0)]);
        assert_eq!(limits[0], 120);
    }

    #[test]
    fn minimums_hold_when_there_is_too_little() {
        assert_eq!(allocate(20, &[level(10, 30, 40, 40), level(10, 30, 40, 40)]), [10, 10]);
    }
}
