//! Processes that are still who they were: a pid, when it started, and in which boot.
//!
//! Invariant: a [`ProcessId`] never matches a later process that got the same number.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub pid: i32,
    /// Clock ticks after boot.
    start_time: u64,
    boot_id: String,
}

// === impl ProcessId ===

impl ProcessId {
    pub fn own() -> Self {
        Self::of(std::process::id() as i32).expect("a running process has a stat file")
    }

    /// `None` if there is no such process.
    pub fn of(pid: i32) -> Option<Self> {
        Some(ProcessId { pid, start_time: start_time(pid)?, boot_id: boot_id() })
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time) && boot_id() == self.boot_id
    }

    pub fn kill(&self) {
        if self.is_alive() {
            // It may die on its own in between, which is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// Field 22 of stat, counted from behind the command's closing bracket, since the command may hold
/// spaces. A zombie is dead already.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_is_alive() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own.clone() }.is_alive());
        assert!(!ProcessId { boot_id: "another".to_owned(), ..own }.is_alive());
        assert_eq!(ProcessId::of(i32::MAX), None);
    }
}
