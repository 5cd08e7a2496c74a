//! How a node tells the command that started it how far it has come.
//!
//! The server writes one line per event to a pipe; the starter prints them as they come and
//! returns at `ready`. Counterpart: systemd's notify protocol, with phases.
//!
//! Invariant: a report never fails the reporter. Whoever started the node may be gone.

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The node's namespaces are there.
    Namespaces,
    /// A part works now, and what it is.
    Phase(String),
    /// Everything a user needs works.
    Ready,
    /// It will not come up.
    Failed(String),
}

impl Report {
    fn line(&self) -> String {
        match self {
            Report::Namespaces => "namespaces\n".to_owned(),
            Report::Phase(what) => format!("phase {}\n", one_line(what)),
            Report::Ready => "ready\n".to_owned(),
            Report::Failed(why) => format!("failed {}\n", one_line(why)),
        }
    }

    /// Reads a line back; `None` for one that is not understood.
    pub fn parse(line: &str) -> Option<Report> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("namespaces", _) => Some(Report::Namespaces),
            ("phase", what) => Some(Report::Phase(what.to_owned())),
            ("ready", _) => Some(Report::Ready),
            ("failed", why) => Some(Report::Failed(why.to_owned())),
            _ => None,
        }
    }
}

/// The writing end; without one, reports go nowhere.
pub struct Reporter(Mutex<Option<File>>);

impl Reporter {
    pub fn silent() -> Reporter {
        Reporter(Mutex::new(None))
    }

    pub fn new(pipe: OwnedFd) -> Reporter {
        Reporter(Mutex::new(Some(File::from(pipe))))
    }

    /// Takes over an inherited descriptor.
    ///
    /// # Safety
    /// `fd` must be open and owned by nobody else.
    pub unsafe fn inherited(fd: RawFd) -> Reporter {
        // SAFETY: the caller owns the descriptor.
        Reporter::new(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Tells; after [`Report::Ready`] or [`Report::Failed`] the pipe is closed.
    pub fn tell(&self, report: Report) {
        let mut pipe = self.0.lock().expect("no reporter panics while telling");
        if let Some(file) = pipe.as_mut() {
            let gone = file.write_all(report.line().as_bytes()).is_err();
            if gone || matches!(report, Report::Ready | Report::Failed(_)) {
                *pipe = None;
            }
        }
    }

    pub fn phase(&self, what: impl Into<String>) {
        self.tell(Report::Phase(what.into()));
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        for report in [
            Report::Namespaces,
            Report::Phase("api server".into()),
            Report::Ready,
            Report::Failed("no disk left".into()),
        ] {
            assert_eq!(Report::parse(report.line().trim_end()), Some(report));
        }
        assert_eq!(Report::Failed("a\nb".into()).line(), "failed a; b\n");
    }
}
