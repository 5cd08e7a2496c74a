//! Reads container logs in the CRI format.
//!
//! Consumes `<RFC 3339> <stream> <P|F> <text>` lines of a file and its rotated predecessors, emits the bytes that
//! `kubectl logs` shows. Counterpart: `k8s.io/cri-client/pkg/logs`.
//! Invariant: a partial line (`P`) is joined with what follows it; following a log across rotation loses nothing
//! that was written to the old file before the rename.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// What a reader wants to see.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub follow: bool,
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr`; both when `None`.
    pub stream: Option<&'static str>,
}

struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

/// `None` for what is not a log line, such as a torn write.
fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut fields = raw.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
    let text = fields.next().unwrap_or_default();
    let partial = tags.split(|b| *b == b':').next()? == b"P";
    matches!(stream, b"stdout" | b"stderr").then_some(Line { time, stream, partial, text })
}

/// Turns raw lines into output, one at a time.
pub struct Formatter {
    options: LogOptions,
    left: Option<u64>,
    /// The last line ended with a partial mark.
    mid_line: bool,
}

// === impl Formatter ===

impl Formatter {
    pub fn new(options: LogOptions) -> Self {
        Formatter { left: options.limit_bytes, options, mid_line: false }
    }

    /// Appends what `raw` shows to `out`; false once the limit is reached.
    pub fn line(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        if !self.wants(&line) {
            return true;
        }
        let start = out.len();
        if self.options.timestamps && !self.mid_line {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.mid_line = line.partial;
        let Some(left) = &mut self.left else { return true };
        let added = (out.len() - start) as u64;
        if added >= *left {
            out.truncate(start + usize::try_from(*left).unwrap_or(usize::MAX));
            *left = 0;
            return false;
        }
        *left -= added;
        true
    }

    fn wants(&self, line: &Line<'_>) -> bool {
        let time = || std::str::from_utf8(line.time).ok()?.parse::<Timestamp>().ok();
        let recent = self.options.since.is_none_or(|since| time().is_some_and(|t| t >= since));
        let stream = self.options.stream.is_none_or(|s| line.stream == s.as_bytes());
        recent && stream
    }
}

/// The file and its rotated predecessors that are still plain text, oldest first.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return vec![path.to_owned()];
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut rotated: Vec<PathBuf> = entries
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect();
    // The suffix is the time of rotation, which sorts as text.
    rotated.sort();
    rotated.push(path.to_owned());
    rotated
}

/// Where the last `lines` lines of a file begin, and how many there really are.
pub fn tail_position(path: &Path, lines: usize) -> io::Result<(u64, usize)> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok((size, 0));
    }
    let (mut end, mut found) = (size, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        io::Read::read_exact(&mut file, &mut block)?;
        for (i, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let at = start + i as u64 + 1;
            if at == size {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((at, found));
            }
        }
        end = start;
    }
    // The first line has no line end before it.
    Ok((0, found + usize::from(size > 0)))
}

/// The text of the last lines of one file, for termination messages.
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(tail_position(path, lines)?.0))?;
    let mut formatter = Formatter::new(LogOptions::default());
    let mut out = Vec::new();
    let mut reader = BufReader::new(file);
    let mut raw = Vec::new();
    while reader.read_until(b'\n', &mut raw)? > 0 {
        formatter.line(&raw, &mut out);
        raw.clear();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-21T05:00:00.000000001Z stdout F one\n2026-11-21T05:00:01Z stderr P tw\n\
                       2026-11-21T05:00:01Z stderr F o\ngarbage\n2026-11-21T05:00:02Z stdout F three\n";

    fn check(options: LogOptions, expected: &str) {
        let mut formatter = Formatter::new(options.clone());
        let mut out = Vec::new();
        for raw in LOG.split_inclusive('\n') {
            if !formatter.line(raw.as_bytes(), &mut out) {
                break;
            }
        }
        assert_eq!(String::from_utf8_lossy(&out), expected, "{options:?}");
    }

    #[test]
    fn shows_what_is_asked_for() {
        let all = LogOptions::default();
        check(all.clone(), "one\ntwo\nthree\n");
        check(LogOptions { stream: Some("stdout"), ..all.clone() }, "one\nthree\n");
        let since = "2026-11-21T05:00:01Z".parse().ok();
        check(LogOptions { since, ..all.clone() }, "two\nthree\n");
        check(LogOptions { limit_bytes: Some(6), ..all.clone() }, "one\ntw");
        check(
            LogOptions { timestamps: true, ..all },
            "2026-11-21T05:00:00.000000001Z one\n2026-11-21T05:00:01Z two\n2026-11-21T05:00:02Z three\n",
        );
    }

    #[test]
    fn finds_the_tail() {
        let path = std::env::temp_dir().join(format!("skiff-tail-{}", std::process::id()));
        std::fs::write(&path, LOG).expect("written");
        assert_eq!(tail_position(&path, 99).expect("read"), (0, 5));
        assert_eq!(last_lines(&path, 1).expect("read"), b"three\n");
        assert_eq!(last_lines(&path, 4).expect("read"), b"two\nthree\n");
        std::fs::remove_file(&path).expect("removed");
    }
}
