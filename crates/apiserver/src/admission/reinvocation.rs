//! The second round of mutation: who is asked again, and whether there is one.
//!
//! Counterpart: `admission.ReinvocationContext` and the contexts that webhooks and policies keep in it.
//! Invariant: there are at most two rounds, and in the second only those who ran in the first and were followed by a change.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

/// Of one request.
#[derive(Default)]
pub struct Reinvocation {
    wanted: AtomicBool,
    second: AtomicBool,
    pub webhooks: Mutex<Invoked>,
    pub policies: Mutex<Invoked>,
}

/// What one mutating plugin remembers between the rounds.
#[derive(Default)]
pub struct Invoked {
    last_output: Option<Value>,
    /// Asked in the first round, and willing to be asked again.
    before: HashSet<String>,
    again: HashSet<String>,
}

// === impl Reinvocation ===

impl Reinvocation {
    /// Something was changed: the plugins before may have more to say.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub fn is_second(&self) -> bool {
        self.second.load(Ordering::Relaxed)
    }

    /// Whether a second round is due; from then on it is under way.
    pub fn start_again(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.second.swap(true, Ordering::Relaxed)
    }
}

// === impl Invoked ===

impl Invoked {
    /// At the start of a round: if other plugins changed the object since, everyone is due again.
    pub fn begin(&mut self, second: bool, object: &Value) {
        if second && self.last_output.as_ref() != Some(object) {
            self.changed();
        }
    }

    /// At the end of a round.
    pub fn end(&mut self, object: &Value) {
        self.last_output = Some(object.clone());
    }

    /// The object changed: those asked before are due again.
    pub fn changed(&mut self) {
        self.again.extend(self.before.drain());
    }

    pub fn ran(&mut self, id: &str) {
        self.before.insert(id.to_owned());
    }

    pub fn is_due(&self, id: &str) -> bool {
        self.again.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_those_before_a_change_are_asked_again() {
        let mut invoked = Invoked::default();
        invoked.begin(false, &json!(1));
        invoked.ran("first");
        invoked.changed();
        invoked.ran("second");
        invoked.end(&json!(2));
        invoked.begin(true, &json!(2));
        assert!(invoked.is_due("first") && !invoked.is_due("second"));
        invoked.begin(true, &json!(3));
        assert!(invoked.is_due("second"), "someone else changed the object");
    }

    #[test]
    fn there_is_one_second_round() {
        let rounds = Reinvocation::default();
        assert!(!rounds.start_again());
        rounds.want();
        assert!(rounds.start_again() && rounds.is_second());
        rounds.want();
        assert!(!rounds.start_again());
    }
}
