//! Where something went wrong in an expression, and how that is shown.
//!
//! Issues with byte offsets in, the text users know from Kubernetes out: `ERROR: <input>:1:6: ...`
//! followed by the line and a caret. Counterpart: cel-go's `common` package.
//! Invariant: rendering never fails, whatever the text and the offset.

use std::fmt::Write;

/// A line longer than this is not repeated below the message.
const SNIPPET_LIMIT: usize = 16_384;
/// More issues than this are only counted.
const ISSUE_LIMIT: usize = 100;

/// One thing wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset into the text; `None` where the expression as a whole is meant.
    pub offset: Option<usize>,
    pub message: String,
}

/// Everything wrong with an expression. Its `Display` is what the API answers with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct Issues {
    text: String,
    issues: Vec<Issue>,
}

// === impl Issues ===

impl Issues {
    pub(crate) fn new(text: &str) -> Issues {
        Issues { text: text.to_owned(), issues: Vec::new() }
    }

    pub(crate) fn report(&mut self, offset: impl Into<Option<usize>>, message: impl Into<String>) {
        self.issues.push(Issue { offset: offset.into(), message: message.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.issues.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter()
    }

    /// `Ok(value)` when nothing was reported.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Issues> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    fn render(&self) -> String {
        // Issues beyond the limit are dropped in the order they were found, the rest shown in the
        // order of the text.
        let mut shown: Vec<_> = self
            .issues
            .iter()
            .take(ISSUE_LIMIT)
            .map(|issue| (issue.offset.map(|at| Position::of(&self.text, at)), issue))
            .collect();
        shown.sort_by_key(|(position, _)| *position);
        let mut lines: Vec<String> =
            shown.iter().map(|(at, issue)| self.show(*at, issue)).collect();
        if self.issues.len() > ISSUE_LIMIT {
            lines.push(format!("{} more errors were truncated", self.issues.len() - ISSUE_LIMIT));
        }
        lines.join("\n")
    }

    fn show(&self, position: Option<Position>, issue: &Issue) -> String {
        let Some(Position { line, column }) = position else {
            return format!("ERROR: <input>:-1:0: {}", issue.message);
        };
        if self.text.is_empty() {
            return format!("ERROR: <input>:1:0: {}", issue.message);
        }
        let mut out = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
        if let Some(text) = self.text.split('\n').nth(line - 1).filter(|t| t.len() <= SNIPPET_LIMIT)
        {
            let text = text.replace('\t', " ");
            let _ = write!(out, "\n | {text}\n | {}", caret(&text, column));
        }
        out
    }
}

/// Dots up to the column, then a caret, each as wide as the character above it.
fn caret(text: &str, column: usize) -> String {
    let mut chars = text.chars();
    let wide = |c: Option<char>| c.is_some_and(|c| c.len_utf8() > 1);
    let mut out: String =
        chars.by_ref().take(column).map(|c| if wide(Some(c)) { '\u{ff0e}' } else { '.' }).collect();
    out.push(if wide(chars.next()) { '\u{ff3e}' } else { '^' });
    out
}

/// A line counted from one and a column, in characters, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    line: usize,
    column: usize,
}

impl Position {
    fn of(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[start..].chars().count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_are_shown_in_the_order_of_the_text_with_a_caret() {
        let mut issues = Issues::new("a +\n é + b");
        issues.report(8, "second");
        issues.report(1, "first");
        assert_eq!(
            issues.to_string(),
            "ERROR: <input>:1:2: first\n | a +\n | .^\n\
             ERROR: <input>:2:4: second\n |  é + b\n | .\u{ff0e}.^"
        );
    }
}
