//! The lines of a Dockerfile: continued ones joined, comments dropped, here-documents taken in.
//!
//! Text -> instructions that nobody has understood yet, with their line numbers.

use super::{ParseError, Parsed};

/// One instruction before it is understood.
pub struct Raw {
    pub number: usize,
    pub text: String,
    pub heredocs: Vec<Heredoc>,
}

pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// Its name stands without quotes.
    pub expands: bool,
}

/// Joins continued lines, drops comments, takes here-documents in.
pub fn split(text: &str) -> Parsed<Vec<Raw>> {
    let escape = escape_of(text);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((number, first)) = lines.next() {
        if is_comment(first) || first.trim().is_empty() {
            continue;
        }
        let mut whole = String::new();
        let mut line = first;
        loop {
            match line.trim_end().strip_suffix(escape) {
                Some(part) => whole.push_str(part),
                None => {
                    whole.push_str(line);
                    break;
                }
            }
            // Comments and empty lines inside of an instruction do not end it.
            match lines.find(|(_, line)| !is_comment(line) && !line.trim().is_empty()) {
                Some((_, next)) => line = next,
                None => break,
            }
        }
        let heredocs = heredocs(number, whole.trim(), &mut lines)?;
        found.push(Raw { number, text: whole.trim().to_owned(), heredocs });
    }
    Ok(found)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// `# escape=` among the directives before anything else.
fn escape_of(text: &str) -> char {
    for line in text.lines() {
        let Some(directive) = line.trim().strip_prefix('#') else { break };
        let Some((key, value)) = directive.split_once('=') else { break };
        if key.trim().eq_ignore_ascii_case("escape") {
            return value.trim().chars().next().unwrap_or('\\');
        }
    }
    '\\'
}

fn heredocs<'a>(
    number: usize,
    text: &str,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Parsed<Vec<Heredoc>> {
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(word.as_str(), "RUN" | "COPY" | "ADD") {
        return Ok(Vec::new());
    }
    let markers = text.split_whitespace().filter_map(|word| word.strip_prefix("<<"));
    let mut found = Vec::new();
    for marker in markers.filter(|marker| !marker.starts_with('<')) {
        let (strips_tabs, name) = match marker.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, marker),
        };
        let expands = !name.starts_with(['"', '\'']);
        let name = name.trim_matches(['"', '\'']).to_owned();
        let mut content = String::new();
        loop {
            let Some((_, line)) = lines.next() else {
                let reason = format!("the here-document {name} has no end");
                return Err(ParseError { line: number, reason });
            };
            let line = if strips_tabs { line.trim_start_matches('\t') } else { line };
            if line == name {
                break;
            }
            content.push_str(line);
            content.push('\n');
        }
        found.push(Heredoc { name, content, expands });
    }
    Ok(found)
}
