//! The audit log: a file of JSON lines, written by a thread of its own.
//!
//! Lines in, whole lines on disk; the file is set aside when it is full, and old files go. Counterpart: the log backend with
//! lumberjack. Differs from upstream: a request never waits for the disk. When the thread is [`BACKLOG`] lines
//! behind, further ones are dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Where lines go, and how long they stay.
#[derive(Clone, Debug)]
pub struct LogTerms {
    /// `-` is standard output, which is never set aside.
    pub path: PathBuf,
    /// Bytes after which a file is set aside.
    pub max_size: u64,
    /// How long files set aside are kept, and how many; zero is no limit.
    pub max_age: Duration,
    pub max_backups: usize,
}

pub struct Log {
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

const BACKLOG: usize = 10_000;

// === impl Log ===

impl Log {
    pub fn open(terms: LogTerms) -> std::io::Result<Log> {
        let (lines, waiting) = sync_channel(BACKLOG);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut sink = Sink::open(terms)?;
        let failed = dropped.clone();
        let writer = std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || write_all(&waiting, &mut sink, &failed))?;
        Ok(Log { lines: Some(lines), writer: Some(writer), dropped })
    }

    pub fn write(&self, line: String) {
        let sent = self.lines.as_ref().map(|lines| lines.try_send(line));
        if !matches!(sent, Some(Ok(()))) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines that never reached the file.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Drop for Log {
    /// What was accepted is written.
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(lines: &Receiver<String>, sink: &mut Sink, failed: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        let mut written = sink.write(&line);
        // What has queued up meanwhile shares the flush.
        while let (Ok(()), Ok(line)) = (&written, lines.try_recv()) {
            written = sink.write(&line);
        }
        if let Err(error) = written.and_then(|()| sink.flush()) {
            failed.fetch_add(1, Relaxed);
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}

/// The file that is being written.
struct Sink {
    terms: LogTerms,
    out: Out,
    size: u64,
}

enum Out {
    File(BufWriter<File>),
    Stdout,
}

// === impl Sink ===

impl Sink {
    fn open(terms: LogTerms) -> std::io::Result<Sink> {
        if terms.path == Path::new("-") {
            return Ok(Sink { terms, out: Out::Stdout, size: 0 });
        }
        let (file, size) = open(&terms.path)?;
        Ok(Sink { terms, out: Out::File(BufWriter::new(file)), size })
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.size > 0 && self.size + length > self.terms.max_size {
            self.set_aside()?;
        }
        self.size += length;
        match &mut self.out {
            Out::File(file) => writeln!(file, "{line}"),
            Out::Stdout => writeln!(std::io::stdout(), "{line}"),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.out {
            Out::File(file) => file.flush(),
            Out::Stdout => std::io::stdout().flush(),
        }
    }

    fn set_aside(&mut self) -> std::io::Result<()> {
        let Out::File(file) = &mut self.out else {
            self.size = 0;
            return Ok(());
        };
        file.flush()?;
        std::fs::rename(&self.terms.path, aside(&self.terms.path))?;
        let (file, size) = open(&self.terms.path)?;
        self.out = Out::File(BufWriter::new(file));
        self.size = size;
        self.forget_old()
    }

    /// Removes what is too old or too many among the files set aside.
    fn forget_old(&self) -> std::io::Result<()> {
        let mut backups = backups(&self.terms.path)?;
        backups.sort_by(|(_, one), (_, other)| other.cmp(one));
        let LogTerms { max_age, max_backups, .. } = self.terms;
        let too_old =
            |made: SystemTime| !max_age.is_zero() && made.elapsed().is_ok_and(|age| age > max_age);
        for (at, (path, made)) in backups.iter().enumerate() {
            if max_backups > 0 && at >= max_backups || too_old(*made) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// `audit.log` is set aside as `audit-2026-11-21T08-30-00.123456.log`.
fn aside(path: &Path) -> PathBuf {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%6f");
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

fn backups(path: &Path) -> std::io::Result<Vec<(PathBuf, SystemTime)>> {
    let (stem, extension) = parts(path);
    let prefix = format!("{stem}-");
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(&extension) {
            found.push((entry.path(), entry.metadata()?.modified()?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            let dir = std::env::temp_dir().join(format!("skiff-audit-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&dir).expect("a directory");
            Dir(dir)
        }

        fn terms(&self, max_size: u64, max_backups: usize) -> LogTerms {
            LogTerms {
                path: self.0.join("audit.log"),
                max_size,
                max_age: Duration::ZERO,
                max_backups,
            }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn accepted_lines_are_written_before_the_log_closes() {
        let dir = Dir::new();
        let log = Log::open(dir.terms(1 << 20, 0)).expect("a log");
        (0..100).for_each(|line| log.write(line.to_string()));
        drop(log);
        let text = std::fs::read_to_string(dir.0.join("audit.log")).expect("the log");
        assert_eq!(text.lines().count(), 100);
    }

    #[test]
    fn a_full_file_is_set_aside_and_only_so_many_are_kept() {
        let dir = Dir::new();
        let mut sink = Sink::open(dir.terms(10, 2)).expect("a log");
        for line in 0..6 {
            sink.write(&format!("line {line}")).expect("a write");
            // Files are told apart by the time they were set aside.
            std::thread::sleep(Duration::from_millis(2));
        }
        sink.flush().expect("a flush");
        let kept = backups(&sink.terms.path).expect("a listing");
        assert_eq!(kept.len(), 2);
        assert_eq!(std::fs::read_to_string(&sink.terms.path).expect("the log"), "line 5\n");
        let texts: Vec<String> =
            kept.iter().map(|(path, _)| std::fs::read_to_string(path).expect("a backup")).collect();
        assert!(
            texts.contains(&"line 4\n".to_owned()) && texts.contains(&"line 3\n".to_owned()),
            "{texts:?}"
        );
    }

    #[test]
    fn a_log_that_exists_is_continued() {
        let dir = Dir::new();
        for line in ["one", "two"] {
            let log = Log::open(dir.terms(1 << 20, 0)).expect("a log");
            log.write(line.to_owned());
        }
        assert_eq!(
            std::fs::read_to_string(dir.0.join("audit.log")).expect("the log"),
            "one\ntwo\n"
        );
    }
}
