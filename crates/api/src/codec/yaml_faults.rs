//! The words of Go's YAML reader for faults of syntax.
//!
//! Our parser's message and place -> upstream's text. The two readers see the same faults and name
//! them differently; [`FAULTS`] says which is which and which line Go tells: its scanner counts from
//! one, its parser from zero, and a fault in the first line has no line at all.

/// How Go finds the line of a fault that our parser saw in line `n`.
#[derive(Clone, Copy)]
enum Line {
    None,
    /// Told by the scanner: `n`, or so many lines later.
    Scanner(usize),
    /// Told by the parser: the line before.
    Parser,
    /// Told by the scanner when the text ends.
    End,
}

/// What our parser says (a part of it), what Go says, and where. The first entry that fits counts.
const FAULTS: &[(&str, &str, Line)] = &[
    ("tabs disallowed", "found character that cannot start any token", Line::Scanner(0)),
    (
        "plain scalar, found a tab",
        "found a tab character that violates indentation",
        Line::Scanner(1),
    ),
    (
        "cannot start with a tab",
        "found a tab character where an indentation space is expected",
        Line::Scanner(1),
    ),
    ("mapping values are not", "mapping values are not allowed in this context", Line::Scanner(0)),
    (
        "block sequence entries are not",
        "block sequence entries are not allowed in this context",
        Line::Scanner(0),
    ),
    ("simple key expected", "could not find expected ':'", Line::Scanner(1)),
    ("unclosed quote", "found unexpected end of stream", Line::End),
    ("multiline quoted scalar", "found unexpected end of stream", Line::End),
    ("unknown escape character", "found unknown escape character", Line::Scanner(0)),
    ("hexadecimal number", "did not find expected hexdecimal number", Line::Scanner(0)),
    ("expected '>'", "did not find the expected '>'", Line::Scanner(0)),
    ("comment or line break", "did not find expected comment or line break", Line::Scanner(0)),
    (
        "alphabetic or numeric character",
        "did not find expected alphabetic or numeric character",
        Line::Scanner(0),
    ),
    (r"unexpected character: `\u", "control characters are not allowed", Line::None),
    ("unexpected character", "found character that cannot start any token", Line::Scanner(0)),
    ("expected ',' or '}'", "did not find expected ',' or '}'", Line::Parser),
    ("expected ',' or ']'", "did not find expected ',' or ']'", Line::Parser),
    ("expected '-' indicator", "did not find expected '-' indicator", Line::Parser),
    ("did not find expected key", "did not find expected key", Line::Parser),
    ("invalid trailing content", "did not find expected key", Line::Parser),
    ("misplaced bracket", "did not find expected node content", Line::Parser),
    ("unexpected EOF while parsing", "did not find expected node content", Line::Parser),
    ("YAML merge value", "map merge requires map or sequence of maps as the value", Line::None),
];

/// A fault as Go tells it; `None` if it has no counterpart there.
pub fn told(message: &str, line: usize, column: usize, text: &str) -> Option<String> {
    let end = text.bytes().filter(|byte| *byte == b'\n').count();
    if let Some(bracket) = message.split("unclosed bracket '").nth(1) {
        return Some(unclosed(bracket, end, text));
    }
    for (ours, why) in [("unknown anchor", "unknown anchor"), ("recursive references", "anchor")] {
        if message.contains(ours) {
            let name = anchor_at(text, line, column);
            return Some(match why {
                "anchor" => format!("yaml: anchor '{name}' value contains itself"),
                _ => format!("yaml: unknown anchor '{name}' referenced"),
            });
        }
    }
    let (_, told, place) = FAULTS.iter().find(|(ours, ..)| message.contains(ours))?;
    Some(match place {
        Line::None => format!("yaml: {told}"),
        Line::Scanner(later) => at((line + later).saturating_sub(1), 1, told),
        Line::Parser => at(line.saturating_sub(1), 0, told),
        Line::End => at(end, 1, told),
    })
}

/// The end of the text counts as a line of its own to the parser.
fn unclosed(bracket: &str, newlines: usize, text: &str) -> String {
    let wants_node = text.trim_end().ends_with(['[', '{', ',']);
    let what = match (wants_node, bracket.starts_with('[')) {
        (true, _) => "did not find expected node content",
        (false, true) => "did not find expected ',' or ']'",
        (false, false) => "did not find expected ',' or '}'",
    };
    at(newlines + usize::from(!text.ends_with('\n')), 0, what)
}

/// `line` counts from zero, where none is told.
fn at(line: usize, first: usize, what: &str) -> String {
    match line {
        0 => format!("yaml: {what}"),
        line => format!("yaml: line {}: {what}", line + first),
    }
}

/// The name behind the `*` at a place.
fn anchor_at(text: &str, line: usize, column: usize) -> String {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let name = line.chars().skip(column.saturating_sub(1)).skip_while(|c| *c == '*');
    name.take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}
