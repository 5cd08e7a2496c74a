//! Regular expressions of schemas, in the syntax of Go's `regexp`.
//!
//! Text -> [`Pattern`], or the words in which Go refuses it. The syntax is RE2's with Perl's classes; it is rewritten for
//! the `regex` crate, whose own extensions (nested classes, Unicode `\d`) would give the same text another meaning.
//! Compiled on first use: a definition may hold thousands of patterns that no object ever meets.

use std::sync::OnceLock;

use regex::Regex;

/// Go's bound on counts, also of nested repetitions together.
const MAX_COUNT: u32 = 1000;
const MAX_DEPTH: usize = 1000;

pub struct Pattern {
    text: String,
    rewritten: String,
    compiled: OnceLock<Option<Regex>>,
}

// === impl Pattern ===

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let rewritten =
            Parser::new(text).run().map_err(|why| format!("error parsing regexp: {why}"))?;
        Ok(Pattern { text: text.to_owned(), rewritten, compiled: OnceLock::new() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether any part of the text matches. A pattern too large to compile matches nothing.
    pub fn is_match(&self, text: &str) -> bool {
        let compile =
            || regex::RegexBuilder::new(&self.rewritten).size_limit(64 << 20).build().ok();
        self.compiled.get_or_init(compile).as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// What precedes the place where the parser stands.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// Nothing a repetition could apply to.
    Nothing,
    Atom,
    /// A repetition that began at this byte.
    Repetition(usize),
}

struct Parser<'p> {
    text: &'p str,
    at: usize,
    out: String,
    last: Last,
    /// How often nested repetitions repeat the last atom, per open group: so far in it, and of the last atom.
    weights: Vec<(u32, u32)>,
}

// === impl Parser ===

impl<'p> Parser<'p> {
    fn new(text: &'p str) -> Parser<'p> {
        Parser { text, at: 0, out: String::new(), last: Last::Nothing, weights: vec![(1, 1)] }
    }

    fn run(mut self) -> Result<String, String> {
        while let Some(c) = self.peek() {
            match c {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => self.mark('|', Last::Nothing),
                '^' | '$' | '.' => self.atom_char(c),
                '[' => self.class()?,
                '*' | '+' | '?' => self.repeat_sign()?,
                '{' => self.repeat_count()?,
                '\\' => self.escape()?,
                c => self.literal(c),
            }
        }
        match self.weights.len() {
            1 => Ok(self.out),
            _ => Err(format!("missing closing ): `{}`", self.text)),
        }
    }

    fn rest(&self) -> &'p str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn mark(&mut self, c: char, last: Last) {
        self.at += c.len_utf8();
        self.out.push(c);
        self.last = last;
    }

    fn atom_char(&mut self, c: char) {
        self.mark(c, Last::Atom);
        self.weigh(1);
    }

    fn literal(&mut self, c: char) {
        self.at += c.len_utf8();
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
        self.last = Last::Atom;
        self.weigh(1);
    }

    fn weigh(&mut self, weight: u32) {
        if let Some((most, own)) = self.weights.last_mut() {
            *own = weight;
            *most = (*most).max(weight);
        }
    }

    // --- groups ---

    fn open(&mut self) -> Result<(), String> {
        if self.weights.len() > MAX_DEPTH {
            return Err(format!("expression nests too deeply: `{}`", self.text));
        }
        self.last = Last::Nothing;
        if !self.rest().starts_with("(?") {
            self.weights.push((1, 1));
            self.mark('(', Last::Nothing);
            return Ok(());
        }
        self.perl_group()
    }

    fn perl_group(&mut self) -> Result<(), String> {
        let rest = self.rest();
        if rest.starts_with("(?P<") || rest.starts_with("(?<") {
            return self.named_group();
        }
        let unsupported =
            |end: usize| format!("invalid or unsupported Perl syntax: `{}`", &rest[..end]);
        let (mut seen_flag, mut negated) = (false, false);
        for (offset, c) in rest.char_indices().skip(2) {
            let end = offset + c.len_utf8();
            match c {
                'i' | 'm' | 's' | 'U' => seen_flag = true,
                '-' if !negated => (negated, seen_flag) = (true, false),
                ':' | ')' if !negated || seen_flag => {
                    if c == ':' {
                        self.weights.push((1, 1));
                    }
                    self.out.push_str(&rest[..end]);
                    self.at += end;
                    return Ok(());
                }
                _ => return Err(unsupported(end)),
            }
        }
        Err(unsupported(rest.len()))
    }

    fn named_group(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let start = if rest.starts_with("(?P<") { 4 } else { 3 };
        let Some(length) = rest[start..].find('>') else {
            return Err(format!("invalid named capture: `{rest}`"));
        };
        let name = &rest[start..start + length];
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(format!("invalid named capture: `{}`", &rest[..=start + length]));
        }
        // Names matter to nobody who only asks for a match, and the rewritten syntax allows fewer.
        self.out.push('(');
        self.weights.push((1, 1));
        self.at += start + length + 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        if self.weights.len() == 1 {
            return Err(format!("unexpected ): `{}`", self.text));
        }
        let (inside, _) = self.weights.pop().expect("a group is open");
        self.mark(')', Last::Atom);
        self.weigh(inside);
        Ok(())
    }

    // --- repetitions ---

    fn repeat_sign(&mut self) -> Result<(), String> {
        self.repeat(1, 1)
    }

    /// `{2}`, `{2,}`, `{2,3}`; any other brace is itself.
    fn repeat_count(&mut self) -> Result<(), String> {
        let Some((length, min, max)) = counts(self.rest()) else {
            self.literal('{');
            return Ok(());
        };
        let invalid = || format!("invalid repeat count: `{}`", &self.rest()[..length]);
        if min > MAX_COUNT || max.is_some_and(|max| max > MAX_COUNT || min > max) {
            return Err(invalid());
        }
        let times = max.unwrap_or(min);
        let weight = self.weights.last().map_or(1, |(_, own)| *own).saturating_mul(times.max(1));
        if times >= 2 && weight > MAX_COUNT {
            return Err(invalid());
        }
        self.repeat(length, times.max(1))
    }

    /// A repetition of `length` bytes, perhaps lazy.
    fn repeat(&mut self, length: usize, times: u32) -> Result<(), String> {
        let start = self.at;
        let lazy = self.rest()[length..].starts_with('?');
        let end = start + length + usize::from(lazy);
        match self.last {
            Last::Repetition(first) => {
                return Err(format!(
                    "invalid nested repetition operator: `{}`",
                    &self.text[first..end]
                ));
            }
            Last::Nothing => {
                let sign = &self.text[start..end];
                return Err(format!("missing argument to repetition operator: `{sign}`"));
            }
            Last::Atom => {}
        }
        self.out.push_str(&self.text[start..end]);
        self.at = end;
        self.last = Last::Repetition(start);
        let own = self.weights.last().map_or(1, |(_, own)| *own);
        self.weigh(own.saturating_mul(times));
        Ok(())
    }

    // --- escapes ---

    fn escape(&mut self) -> Result<(), String> {
        let rest = self.rest();
        match rest[1..].chars().next() {
            Some('A' | 'z' | 'B' | 'b') => {
                let ascii = if rest[1..].starts_with(['b', 'B']) { "(?-u:" } else { "(?:" };
                self.emit_atom(&format!("{ascii}{})", &rest[..2]), 2);
            }
            Some('C') => self.emit_atom("(?s:.)", 2),
            Some('Q') => self.quoted(),
            _ => {
                let (length, set) = self.escaped(rest)?;
                let set = match set {
                    Escaped::Char(c) => regex::escape(c.encode_utf8(&mut [0; 4])),
                    Escaped::Set(set) => format!("[{set}]"),
                };
                self.emit_atom(&set, length);
            }
        }
        Ok(())
    }

    fn emit_atom(&mut self, text: &str, length: usize) {
        self.out.push_str(text);
        self.at += length;
        self.last = Last::Atom;
        self.weigh(1);
    }

    /// `\Q...\E`: everything between is itself.
    fn quoted(&mut self) {
        let inside = &self.rest()[2..];
        let length = inside.find("\\E").unwrap_or(inside.len());
        let end = self.at + 2 + length;
        self.at += 2;
        while self.at < end {
            let c = self.peek().expect("within the text");
            self.literal(c);
        }
        if inside[length..].starts_with("\\E") {
            self.at += 2;
        }
    }

    /// What an escape at the start of `text` stands for, and its length.
    fn escaped(&self, text: &str) -> Result<(usize, Escaped), String> {
        let mut chars = text[1..].chars();
        let Some(c) = chars.next() else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        let length = 1 + c.len_utf8();
        let invalid = |end: usize| format!("invalid escape sequence: `{}`", &text[..end]);
        if let Some((_, set)) = PERL_CLASSES.iter().find(|(name, _)| *name == c) {
            return Ok((length, Escaped::Set((*set).to_owned())));
        }
        match c {
            'p' | 'P' => unicode_class(text),
            'x' => hexadecimal(text).ok_or_else(|| invalid(text.len().min(end_of_hex(text)))),
            '1'..='7' if !chars.next().is_some_and(|c| ('0'..='7').contains(&c)) => {
                Err(invalid(length))
            }
            '0'..='7' => Ok(octal(text)),
            'a' => Ok((length, Escaped::Char('\x07'))),
            'f' => Ok((length, Escaped::Char('\x0c'))),
            'n' => Ok((length, Escaped::Char('\n'))),
            'r' => Ok((length, Escaped::Char('\r'))),
            't' => Ok((length, Escaped::Char('\t'))),
            'v' => Ok((length, Escaped::Char('\x0b'))),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok((length, Escaped::Char(c))),
            _ => Err(invalid(length)),
        }
    }

    // --- classes ---

    fn class(&mut self) -> Result<(), String> {
        let whole = self.rest();
        let missing = || format!("missing closing ]: `{whole}`");
        let mut rest = &whole[1..];
        let mut out = String::from("[");
        if let Some(after) = rest.strip_prefix('^') {
            out.push('^');
            rest = after;
        }
        let mut first = true;
        while first || !rest.starts_with(']') {
            if rest.is_empty() {
                return Err(missing());
            }
            rest = self.class_part(rest, &mut out, &missing)?;
            first = false;
        }
        out.push(']');
        let length = whole.len() - rest.len() + 1;
        self.emit_atom(&out, length);
        Ok(())
    }

    /// A named set, an escape, a character or a range; what follows it.
    fn class_part<'t>(
        &self,
        text: &'t str,
        out: &mut String,
        missing: &dyn Fn() -> String,
    ) -> Result<&'t str, String> {
        if let Some(end) = text.strip_prefix("[:").and_then(|inside| inside.find(":]")) {
            let name = &text[..end + 4];
            if !POSIX_CLASSES.contains(&name.replace('^', "").as_str()) {
                return Err(format!("invalid character class range: `{name}`"));
            }
            out.push_str(name);
            return Ok(&text[end + 4..]);
        }
        let (low, after) = match self.class_char(text, missing)? {
            (Escaped::Set(set), after) => {
                out.push_str(&set);
                return Ok(after);
            }
            (Escaped::Char(c), after) => (c, after),
        };
        let upper =
            after.strip_prefix('-').filter(|rest| !rest.is_empty() && !rest.starts_with(']'));
        let Some(upper) = upper else {
            push_class_char(out, low);
            return Ok(after);
        };
        let (Escaped::Char(high), end) = self.class_char(upper, missing)? else {
            let until = text.len() - upper.len();
            return Err(format!("invalid character class range: `{}`", &text[..until]));
        };
        if high < low {
            let range = &text[..text.len() - end.len()];
            return Err(format!("invalid character class range: `{range}`"));
        }
        push_class_char(out, low);
        out.push('-');
        push_class_char(out, high);
        Ok(end)
    }

    fn class_char<'t>(
        &self,
        text: &'t str,
        missing: &dyn Fn() -> String,
    ) -> Result<(Escaped, &'t str), String> {
        let c = text.chars().next().ok_or_else(missing)?;
        if c != '\\' {
            return Ok((Escaped::Char(c), &text[c.len_utf8()..]));
        }
        let (length, set) = self.escaped(text)?;
        Ok((set, &text[length..]))
    }
}

// === escapes ===

enum Escaped {
    Char(char),
    /// What stands between the brackets of a class.
    Set(String),
}

const PERL_CLASSES: &[(char, &str)] = &[
    ('d', "0-9"),
    ('D', "[^0-9]"),
    ('s', r"\t\n\x0C\r "),
    ('S', r"[^\t\n\x0C\r ]"),
    ('w', "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]"),
];

const POSIX_CLASSES: &[&str] = &[
    "[:alnum:]",
    "[:alpha:]",
    "[:ascii:]",
    "[:blank:]",
    "[:cntrl:]",
    "[:digit:]",
    "[:graph:]",
    "[:lower:]",
    "[:print:]",
    "[:punct:]",
    "[:space:]",
    "[:upper:]",
    "[:word:]",
    "[:xdigit:]",
];

/// `\pL`, `\p{Greek}`, `\p{^Greek}`.
fn unicode_class(text: &str) -> Result<(usize, Escaped), String> {
    let fault = |end: usize| format!("invalid character class range: `{}`", &text[..end]);
    let rest = &text[2..];
    let (name, length) = match (rest.strip_prefix('{'), rest.chars().next()) {
        (Some(inside), _) => match inside.find('}') {
            Some(end) => (&inside[..end], 2 + end + 2),
            None => return Err(fault(text.len())),
        },
        (None, Some(c)) => (&rest[..c.len_utf8()], 2 + c.len_utf8()),
        (None, None) => return Err(fault(text.len())),
    };
    let (name, inverted) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let letter = if (text.as_bytes()[1] == b'P') == inverted { 'p' } else { 'P' };
    let set = match name {
        "Any" => "\\x{0}-\\x{10FFFF}".to_owned(),
        name => format!("\\{letter}{{{name}}}"),
    };
    match name.is_empty() || Regex::new(&format!("[{set}]")).is_err() {
        true => Err(fault(length)),
        false => Ok((length, Escaped::Set(set))),
    }
}

/// `\x7F` or `\x{10FFFF}`.
fn hexadecimal(text: &str) -> Option<(usize, Escaped)> {
    let (digits, length) = match text[2..].strip_prefix('{') {
        Some(inside) => {
            let end = inside.find('}')?;
            (&inside[..end], end + 4)
        }
        None => (text.get(2..4)?, 4),
    };
    let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    Some((length, Escaped::Char(char::from_u32(code)?)))
}

/// Up to the first character that cannot belong to a hexadecimal escape.
fn end_of_hex(text: &str) -> usize {
    let start = 2 + usize::from(text[2..].starts_with('{'));
    let digits = text[start..].find(|c: char| !c.is_ascii_hexdigit());
    let digits = digits.unwrap_or(text.len() - start);
    let next = text[start + digits..].chars().next().map_or(0, char::len_utf8);
    start + digits + next
}

/// Up to three octal digits.
fn octal(text: &str) -> (usize, Escaped) {
    let digits: String =
        text[1..].chars().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
    let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
    (1 + digits.len(), Escaped::Char(char::from_u32(code).unwrap_or_default()))
}

fn push_class_char(out: &mut String, c: char) {
    match c.is_ascii_alphanumeric() || !c.is_ascii() {
        true => out.push(c),
        false => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
    }
}

/// Length, least and most of a count in braces; none if it is not one.
fn counts(text: &str) -> Option<(usize, u32, Option<u32>)> {
    let end = text.find('}')?;
    let (min, max) = match text[1..end].split_once(',') {
        None => (&text[1..end], Some(&text[1..end])),
        Some((min, "")) => (min, None),
        Some((min, max)) => (min, Some(max)),
    };
    let number = |digits: &str| {
        let well_formed = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits.len() == 1 || !digits.starts_with('0'));
        well_formed.then(|| digits.parse().unwrap_or(u32::MAX))
    };
    Some((end + 1, number(min)?, max.map(number).map_or(Some(None), |max| max.map(Some))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, yes, no) in [
            ("^[a-z[]$", "[", "]"),
            (r"^\d+$", "12", "١"),
            (r"^[\w-]+$", "a-b_1", "ä"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            ("^[a&&b]$", "&", "c"),
            ("^a{2,3}$", "aa", "a"),
            ("^a{,2}$", "a{,2}", "aa"),
            (r"^[^\s]$", "x", " "),
            ("(?i)^ABC$", "abc", "abd"),
            ("^(?P<n>a)|(?<m>b)$", "b", "c"),
            (r"^\x41\x{42}\103$", "ABC", "abc"),
            (r"^[[:alpha:]]\pL\p{Greek}$", "aéα", "1éα"),
            ("^[]a]$", "]", "b"),
            (r"^\.$", ".", "x"),
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-a"),
        ] {
            let compiled = Pattern::parse(pattern).expect(pattern);
            assert!(compiled.is_match(yes), "{pattern} matches {yes}");
            assert!(!compiled.is_match(no), "{pattern} does not match {no}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused_in_gos_words() {
        for (pattern, wanted) in [
            ("[", "missing closing ]: `[`"),
            ("a[b", "missing closing ]: `[b`"),
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?P<n", "invalid named capture: `(?P<n`"),
            (r"\p{None}", r"invalid character class range: `\p{None}`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        ] {
            let refused = Pattern::parse(pattern).err().unwrap_or_default();
            assert_eq!(refused, format!("error parsing regexp: {wanted}"), "{pattern}");
        }
    }

    #[test]
    fn damaged_patterns_never_panic() {
        crate::mutation::each(
            br"^(?i:[a-z[:alpha:]\d]{2,3}|\Qx\E\x{41}\pL(?P<n>b)*?)$",
            5_000,
            |bytes| {
                let _ = std::str::from_utf8(bytes).map(Pattern::parse);
            },
        );
    }
}
