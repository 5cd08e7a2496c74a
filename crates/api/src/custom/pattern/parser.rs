//! One pass over a pattern: what Go refuses is refused, the rest is written in the syntax of the `regex` crate.
//!
//! Counterpart: `regexp/syntax`. No tree is built: groups are counted, and the last atom's weight is what nested
//! repetitions make of it.

use super::escapes::{
    Escaped, PERL_CLASSES, POSIX_CLASSES, counts, end_of_hex, hexadecimal, octal, push_class_char,
    unicode_class,
};

/// Go's bound on counts, also of nested repetitions together.
const MAX_COUNT: u32 = 1000;
const MAX_DEPTH: usize = 1000;

/// What precedes the place where the parser stands.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// Nothing a repetition could apply to.
    Nothing,
    Atom,
    /// A repetition that began at this byte.
    Repetition(usize),
}

pub struct Parser<'p> {
    text: &'p str,
    at: usize,
    out: String,
    last: Last,
    /// How often nested repetitions repeat the last atom, per open group: so far in it, and of the last atom.
    weights: Vec<(u32, u32)>,
}

// === impl Parser ===

impl<'p> Parser<'p> {
    pub fn new(text: &'p str) -> Parser<'p> {
        Parser { text, at: 0, out: String::new(), last: Last::Nothing, weights: vec![(1, 1)] }
    }

    pub fn run(mut self) -> Result<String, String> {
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
