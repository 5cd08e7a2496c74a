//! An end that the node decides on, whatever the pod's object says.
//!
//! Counterpart: `KillPodOptions` with the status function that goes with it.

use jiff::SignedDuration;
use tokio::sync::mpsc;

/// Why the node ends a pod, and how: the pod fails with this reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub reason: &'static str,
    pub message: String,
    /// The most that the pod's containers get; their own grace may be less.
    pub grace: SignedDuration,
    /// The pod did nothing wrong: it gets the condition `DisruptionTarget`.
    pub disruption: bool,
}

/// Where those who end pods say so: the uid, and how. Cheap to clone.
#[derive(Clone)]
pub struct Endings(mpsc::UnboundedSender<(String, Ending)>);

/// Of pods that end for a critical one.
pub const PREEMPTING: &str = "Preempting";

// === impl Ending ===

impl Ending {
    pub fn preempted() -> Self {
        Ending {
            reason: PREEMPTING,
            message: "Preempted in order to admit critical pod".into(),
            grace: SignedDuration::MAX,
            disruption: true,
        }
    }

    /// What the condition `DisruptionTarget` says, if there is to be one.
    pub fn disruption_message(&self) -> Option<&str> {
        let message = match self.reason {
            PREEMPTING => "Pod was preempted by Kubelet to accommodate a critical pod.",
            _ => &self.message,
        };
        self.disruption.then_some(message)
    }
}

// === impl Endings ===

impl Endings {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<(String, Ending)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Endings(sender), receiver)
    }

    pub fn end(&self, uid: &str, ending: Ending) {
        // Nobody listens only when the agent shuts down.
        let _ = self.0.send((uid.to_owned(), ending));
    }
}
