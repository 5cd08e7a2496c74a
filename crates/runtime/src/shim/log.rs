//! Container logs in the CRI format: `<time> <stream> <F|P> <content>`.
//!
//! Consumes raw output, cuts it into lines of at most 16 KiB, emits one record per line.
//! Counterpart: containerd's `pkg/cri/io/logger.go` and conmon. A line is `F` when its end was
//! seen, `P` when more follows or when the stream ended without one, so that the reader can restore
//! the exact bytes.
//! Invariant: one write per chunk read, always of whole records, so a log cut by rotation or a
//! crash has no half of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::SystemTime,
};

const MAX_LINE: usize = 16 << 10;

/// A log file that can be reopened under the feet of its writers.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

// === impl LogFile ===

impl LogFile {
    /// An empty path drops everything.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut log = LogFile { path, file: None };
        log.reopen()?;
        Ok(log)
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        self.file =
            Some(OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?);
        Ok(())
    }

    /// A full disk must not stop the container: output that cannot be kept is lost, and the shim's
    /// own log says so.
    fn append(&mut self, records: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(records)
        {
            eprintln!("cannot write {}: {error}", self.path.display());
        }
    }
}

/// Cuts one stream into records.
#[derive(Debug)]
pub(super) struct LineCutter {
    stream: &'static str,
    /// Output since the last line end.
    pending: Vec<u8>,
}

// === impl LineCutter ===

impl LineCutter {
    pub fn new(stream: &'static str) -> Self {
        LineCutter { stream, pending: Vec::new() }
    }

    pub fn write(&mut self, chunk: &[u8], log: &mut LogFile) {
        let records = self.cut(chunk, &timestamp(SystemTime::now()));
        if !records.is_empty() {
            log.append(&records);
        }
    }

    /// The stream ended.
    pub fn finish(&mut self, log: &mut LogFile) {
        if !self.pending.is_empty() {
            let mut records = Vec::new();
            self.flush(&timestamp(SystemTime::now()), b'P', &mut records);
            log.append(&records);
        }
    }

    fn cut(&mut self, mut chunk: &[u8], time: &str) -> Vec<u8> {
        let mut records = Vec::new();
        while !chunk.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = &chunk[..chunk.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.pending.extend_from_slice(&chunk[..end]);
                    self.flush(time, b'F', &mut records);
                    chunk = &chunk[end + 1..];
                }
                // The line is longer than a record may be.
                None if window.len() > room => {
                    self.pending.extend_from_slice(&chunk[..room]);
                    self.flush(time, b'P', &mut records);
                    chunk = &chunk[room..];
                }
                None => {
                    self.pending.extend_from_slice(chunk);
                    chunk = &[];
                }
            }
        }
        records
    }

    fn flush(&mut self, time: &str, tag: u8, records: &mut Vec<u8>) {
        records.extend_from_slice(time.as_bytes());
        records.push(b' ');
        records.extend_from_slice(self.stream.as_bytes());
        records.extend_from_slice(&[b' ', tag, b' ']);
        records.append(&mut self.pending);
        records.push(b'\n');
    }
}

/// RFC 3339 in UTC with nanoseconds: `2026-11-21T05:00:00.000000000Z`.
fn timestamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since_epoch.as_secs(), since_epoch.subsec_nanos());
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Days since 1970 to a Gregorian date, counting years from March so that the leap day comes last.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(chunks: &[&str], expected: &str) {
        let mut cutter = LineCutter::new("stdout");
        let mut records = Vec::new();
        for chunk in chunks {
            records.extend(cutter.cut(chunk.as_bytes(), "T"));
        }
        assert_eq!(String::from_utf8(records).unwrap(), expected);
    }

    #[test]
    fn output_is_cut_into_lines() {
        check(&["a\nb\n"], "T stdout F a\nT stdout F b\n");
        check(&["a", "b\n"], "T stdout F ab\n");
        check(&["\n"], "T stdout F \n");
        check(&["no end"], "");
    }

    #[test]
    fn long_lines_are_cut_at_sixteen_kibibytes() {
        let exact = "x".repeat(MAX_LINE);
        check(&[&exact, "\n"], &format!("T stdout F {exact}\n"));
        check(&[&exact, "y\n"], &format!("T stdout P {exact}\nT stdout F y\n"));
        check(&[&(exact.clone() + "y\n")], &format!("T stdout P {exact}\nT stdout F y\n"));
    }

    #[test]
    fn times_are_rfc3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000005Z"),
            (951_827_696, "2000-02-29T12:34:56.000000005Z"),
            (1_795_237_200, "2026-11-21T05:00:00.000000005Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 5);
            assert_eq!(timestamp(time), expected);
        }
    }
}
