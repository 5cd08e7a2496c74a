//! The kernel's word that something in a directory has changed.
//!
//! Directories and the changes of interest in, one answer for all that has happened since the last. Counterpart: `fsnotify`.
//! Invariant: what happens after a watch was made is told of, however late it is asked.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

pub struct DirectoryWatch(AsyncFd<Descriptor>);

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl DirectoryWatch ===

impl DirectoryWatch {
    /// Fails where a directory is missing, and where the kernel has no more watches to give.
    pub fn of<P: AsRef<Path>>(
        dirs: impl IntoIterator<Item = P>,
        changes: AddWatchFlags,
    ) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for dir in dirs {
            inotify.add_watch(dir.as_ref(), changes | AddWatchFlags::IN_ONLYDIR)?;
        }
        // SAFETY: `Descriptor` owns its descriptor, which nothing replaces or closes before the `AsyncFd` is dropped.
        Ok(DirectoryWatch(unsafe { AsyncFd::register(Descriptor(inotify)) }?))
    }

    /// Waits for a change, and says of what kinds there were.
    pub async fn next(&self) -> io::Result<AddWatchFlags> {
        let mut ready = self.0.readable().await?;
        let mut kinds = AddWatchFlags::empty();
        while let Ok(events) = self.0.get_ref().0.read_events() {
            kinds.extend(events.into_iter().map(|event| event.mask));
        }
        ready.clear_ready();
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happened_before_the_question_is_told() {
        let dir = std::env::temp_dir().join(format!("skiff-watch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let watch = DirectoryWatch::of([&dir], AddWatchFlags::IN_CREATE).unwrap();
        std::fs::write(dir.join("a"), "").unwrap();
        std::fs::write(dir.join("b"), "").unwrap();
        assert!(watch.next().await.unwrap().contains(AddWatchFlags::IN_CREATE));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(DirectoryWatch::of([&dir], AddWatchFlags::IN_CREATE).is_err());
    }
}
