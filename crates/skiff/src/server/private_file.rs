//! Files with credentials that others wait for: only their owner reads them, and nobody sees half of one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` at once. What is no regular file, such as a pipe or a terminal, is written to as it is.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    }
    // A link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut draft = path.file_name().unwrap_or_default().to_owned();
    draft.push(format!(".draft-{}", std::process::id()));
    let draft = path.with_file_name(draft);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&draft, &path));
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("skiff-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_that_is_waited_for_is_never_seen_half_written() {
        let scratch = Scratch::new("half-written");
        let (path, text) = (scratch.0.join("kubeconfig"), "credentials\n".repeat(1000));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..500 {
                    write(&path, &text).expect("written");
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                if let Ok(seen) = fs::read_to_string(&path) {
                    assert_eq!(seen.len(), text.len());
                }
            }
        });
        assert_eq!(fs::read_dir(&scratch.0).expect("readable").count(), 1, "no draft is left");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_links_stay() {
        let scratch = Scratch::new("not-a-file");
        write(Path::new("/dev/null"), "text").expect("written");
        let (target, link) = (scratch.0.join("target"), scratch.0.join("link"));
        fs::write(&target, "before").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        write(&link, "after").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("readable"), "after");
    }
}
