//! Thresholds: how many answers in a row make a verdict.
//!
//! Counterpart: the run counting of `pkg/kubelet/prober/worker.go`. Pure.

use k8s_openapi::api::core::v1::Probe;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Succeeded,
    Failed,
}

pub struct ProbeState {
    success_threshold: i32,
    failure_threshold: i32,
    /// The last verdict; `None` before the first.
    verdict: Option<bool>,
    /// The answers' present run: which, and how many.
    run: (bool, i32),
}

// === impl ProbeState ===

impl ProbeState {
    /// Readiness and startup begin undecided, liveness begins well.
    pub fn new(probe: &Probe, undecided: bool) -> Self {
        ProbeState {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            verdict: (!undecided).then_some(true),
            run: (true, 0),
        }
    }

    /// Counts one answer; says so when it changes the verdict.
    pub fn count(&mut self, success: bool) -> Option<Change> {
        self.run = if self.run.0 == success {
            (success, self.run.1.saturating_add(1))
        } else {
            (success, 1)
        };
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run.1 < threshold || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(if success { Change::Succeeded } else { Change::Failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` and `-` are answers; the expectation marks verdicts with `S` and `F`.
    fn check(undecided: bool, thresholds: (i32, i32), answers: &str, expected: &str) {
        let probe = Probe {
            success_threshold: Some(thresholds.0),
            failure_threshold: Some(thresholds.1),
            ..Probe::default()
        };
        let mut state = ProbeState::new(&probe, undecided);
        let verdicts: String = answers
            .chars()
            .map(|a| match state.count(a == '+') {
                Some(Change::Succeeded) => 'S',
                Some(Change::Failed) => 'F',
                None => '.',
            })
            .collect();
        assert_eq!(verdicts, expected, "{answers}");
    }

    #[test]
    fn runs_make_verdicts() {
        check(true, (1, 3), "---+--+---", "..FS.....F");
        check(true, (2, 1), "+-++", ".F.S");
        check(false, (1, 3), "+--+---", "......F");
        check(true, (1, 1), "++", "S.");
    }
}
