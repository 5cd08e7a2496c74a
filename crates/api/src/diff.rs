//! What changed between two values, as a unified diff of their internal print with three lines of
//! context: upstream adds it to the refusal of a change.
//!
//! Type, old and new value -> indented JSON of each -> matching runs of lines -> hunks. Counterpart:
//! `apimachinery/pkg/util/diff`, which uses the matcher of Python's difflib. Which lines count as
//! the same decides how a diff reads, so this matcher finds runs as that one does: the longest
//! first, not started on lines that are all over a long text.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use crate::internal::printed;

const CONTEXT: usize = 3;
/// From this many lines on, lines are left out of the search if they come too often: more than
/// once, and in more than one of a hundred.
const LONG: usize = 200;

/// `of` names the internal type of both values, such as `core.PodSpec`.
pub fn diff(of: &str, old: &Value, new: &Value) -> String {
    let (old, new) = (indented(&printed(of, old)), indented(&printed(of, new)));
    unified(&lines(&old), &lines(&new))
}

fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// Compact JSON, one member a line, one space a level, as Go writes it.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut rest = json.chars().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    };
    while let Some(character) = rest.next() {
        if quoted {
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
            push_escaped(&mut out, character);
            continue;
        }
        match character {
            '{' | '[' => {
                out.push(character);
                if rest.peek().is_some_and(|next| matches!(next, '}' | ']')) {
                    out.extend(rest.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                newline(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(',');
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            character => {
                quoted = character == '"';
                out.push(character);
            }
        }
    }
    out
}

/// Go's JSON keeps markup out of texts.
fn push_escaped(out: &mut String, character: char) {
    match character {
        '<' | '>' | '&' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
        character => out.push(character),
    }
}

// === matching ===

/// A run of lines that both sides have.
#[derive(Clone, Copy)]
struct Run {
    old: usize,
    new: usize,
    length: usize,
}

struct Matcher<'a> {
    old: &'a [&'a str],
    new: &'a [&'a str],
    /// Where a line stands in the new text, if it may start a run.
    places: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Matcher<'a> {
    fn new(old: &'a [&'a str], new: &'a [&'a str]) -> Matcher<'a> {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, line) in new.iter().enumerate() {
            places.entry(line).or_default().push(at);
        }
        if new.len() >= LONG {
            places.retain(|_, at| at.len() <= new.len() / 100 + 1);
        }
        Matcher { old, new, places }
    }

    /// The longest run within two ranges; of several, the first in the old text, then in the new.
    fn longest(&self, old: &Range<usize>, new: &Range<usize>) -> Run {
        let mut best = Run { old: old.start, new: new.start, length: 0 };
        let mut ending: HashMap<usize, usize> = HashMap::new();
        for i in old.clone() {
            let mut now = HashMap::new();
            let places = self.places.get(self.old[i]).into_iter().flatten();
            for j in places.copied().filter(|j| new.contains(j)) {
                let before = j.checked_sub(1).and_then(|j| ending.get(&j)).copied().unwrap_or(0);
                let length = before + 1;
                now.insert(j, length);
                if length > best.length {
                    best = Run { old: i + 1 - length, new: j + 1 - length, length };
                }
            }
            ending = now;
        }
        self.extended(best, old, new)
    }

    /// Lines that may not start a run may still belong to one.
    fn extended(&self, mut run: Run, old: &Range<usize>, new: &Range<usize>) -> Run {
        while run.old > old.start
            && run.new > new.start
            && self.old[run.old - 1] == self.new[run.new - 1]
        {
            run = Run { old: run.old - 1, new: run.new - 1, length: run.length + 1 };
        }
        while run.old + run.length < old.end
            && run.new + run.length < new.end
            && self.old[run.old + run.length] == self.new[run.new + run.length]
        {
            run.length += 1;
        }
        run
    }

    /// All runs within two ranges, in order.
    fn runs(&self, old: Range<usize>, new: Range<usize>, found: &mut Vec<Run>) {
        let run = self.longest(&old, &new);
        if run.length == 0 {
            return;
        }
        self.runs(old.start..run.old, new.start..run.new, found);
        match found.last_mut() {
            Some(last)
                if last.old + last.length == run.old && last.new + last.length == run.new =>
            {
                last.length += run.length;
            }
            _ => found.push(run),
        }
        self.runs(run.old + run.length..old.end, run.new + run.length..new.end, found);
    }
}

// === hunks ===

/// Lines of the old text that lines of the new one take the place of, or that stay.
struct Step {
    old: Range<usize>,
    new: Range<usize>,
    same: bool,
}

fn unified(old: &[&str], new: &[&str]) -> String {
    let mut out = String::new();
    for hunk in hunks(steps(old, new)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let (was, is) = (first.old.start..last.old.end, first.new.start..last.new.end);
        out.push_str(&format!("@@ -{} +{} @@\n", shown(&was), shown(&is)));
        for step in &hunk {
            let mut push = |mark: char, lines: &[&str]| {
                lines.iter().for_each(|line| out.push_str(&format!("{mark}{line}\n")));
            };
            match step.same {
                true => push(' ', &old[step.old.clone()]),
                false => {
                    push('-', &old[step.old.clone()]);
                    push('+', &new[step.new.clone()]);
                }
            }
        }
    }
    out
}

fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let mut runs = Vec::new();
    Matcher::new(old, new).runs(0..old.len(), 0..new.len(), &mut runs);
    runs.push(Run { old: old.len(), new: new.len(), length: 0 });
    let (mut i, mut j, mut steps) = (0, 0, Vec::new());
    for run in runs {
        if i < run.old || j < run.new {
            steps.push(Step { old: i..run.old, new: j..run.new, same: false });
        }
        (i, j) = (run.old + run.length, run.new + run.length);
        if run.length > 0 {
            steps.push(Step { old: run.old..i, new: run.new..j, same: true });
        }
    }
    steps
}

/// Changes with the lines around them, apart where more stays the same than both need.
fn hunks(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut hunks: Vec<Vec<Step>> = vec![Vec::new()];
    let last = steps.len().saturating_sub(1);
    for (at, step) in steps.into_iter().enumerate() {
        let length = step.old.len();
        let head = |step: &Step, n: usize| Step {
            old: step.old.start..step.old.start + n,
            new: step.new.start..step.new.start + n,
            same: true,
        };
        let tail = |step: &Step, n: usize| Step {
            old: step.old.end - n..step.old.end,
            new: step.new.end - n..step.new.end,
            same: true,
        };
        let hunk = hunks.last_mut().expect("there is always one");
        match step.same {
            true if at == 0 => hunk.push(tail(&step, length.min(CONTEXT))),
            true if at == last => hunk.push(head(&step, length.min(CONTEXT))),
            true if length > 2 * CONTEXT => {
                hunk.push(head(&step, CONTEXT));
                hunks.push(vec![tail(&step, CONTEXT)]);
            }
            _ => hunk.push(step),
        }
    }
    hunks.retain(|hunk| hunk.iter().any(|step| !step.same));
    hunks
}

/// `start,length` with lines counted from one; the length goes without saying if it is one.
fn shown(range: &Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        length => format!("{},{length}", range.start + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_shows_three_lines_around_it() {
        let claim = |mode: &str| json!({"accessModes": [mode], "resources": {}});
        let expected = concat!(
            "@@ -1,6 +1,6 @@\n",
            " {\n",
            "  \"AccessModes\": [\n",
            "-  \"ReadWriteOnce\"\n",
            "+  \"ReadWriteMany\"\n",
            "  ],\n",
            "  \"Selector\": null,\n",
            "  \"Resources\": {\n",
        );
        let (old, new) = (claim("ReadWriteOnce"), claim("ReadWriteMany"));
        assert_eq!(diff("core.PersistentVolumeClaimSpec", &old, &new), expected);
    }

    #[test]
    fn changes_far_apart_stand_in_hunks_of_their_own() {
        let old: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let mut new = old.clone();
        new[2] = "x".to_owned();
        new.remove(17);
        let text = |lines: &[String]| lines.join("\n");
        let (old, new) = (text(&old), text(&new));
        let found = unified(&lines(&old), &lines(&new));
        let heads: Vec<&str> = found.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -1,6 +1,6 @@", "@@ -15,6 +15,5 @@"]);
    }

    #[test]
    fn nothing_changed_is_nothing_shown() {
        assert_eq!(diff("core.PodSpec", &json!({}), &json!({})), "");
    }

    #[test]
    fn texts_are_not_taken_for_structure() {
        assert_eq!(
            indented(r#"{"a":"{,\":<","b":[]}"#),
            "{\n \"a\": \"{,\\\":\\u003c\",\n \"b\": []\n}"
        );
    }
}
