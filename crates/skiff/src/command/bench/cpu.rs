//! What a measurement costs in CPU time, told apart: the clients in this process, and the server beside them.
//!
//! On one machine both share the same cores, so a rate alone does not say whose cost it is.

use std::time::Duration;

/// `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux there is.
const TICK: Duration = Duration::from_millis(10);

/// Reads the clocks. Without the server's process id only the clients' is known.
pub struct Meter {
    pub server: Option<u32>,
}

pub struct Running {
    server: Option<(u32, Duration)>,
    clients: Duration,
}

/// CPU time between two readings.
pub struct Spent {
    pub server: Option<Duration>,
    pub clients: Duration,
}

// === impl Meter ===

impl Meter {
    pub fn start(&self) -> Running {
        let server = self.server.and_then(|pid| Some((pid, used(&pid.to_string())?)));
        Running { server, clients: used("self").unwrap_or_default() }
    }
}

// === impl Running ===

impl Running {
    pub fn spent(self) -> Spent {
        let since = |pid: &str, began: Duration| Some(used(pid)?.saturating_sub(began));
        Spent {
            server: self.server.and_then(|(pid, began)| since(&pid.to_string(), began)),
            clients: since("self", self.clients).unwrap_or_default(),
        }
    }
}

fn used(pid: &str) -> Option<Duration> {
    in_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// User and system time, the 14th and 15th fields. The second is the program's name, which may hold anything.
fn in_stat(stat: &str) -> Option<Duration> {
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(TICK * (user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_hides_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 1 0 99";
        assert_eq!(in_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(in_stat("7 (a) S 1"), None);
    }
}
