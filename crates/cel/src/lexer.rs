//! Text to tokens.
//!
//! Characters in, tokens with byte offsets out; what is no token is reported and skipped, so that
//! the parser can still say what else is wrong. Counterpart: the lexer rules of the CEL grammar.
//! Invariant: the last token is `End`, and tokens never overlap.

use crate::source::Issues;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An operator, bracket or separator.
    Symbol(&'static str),
    /// `in`, `true`, `false` or `null`: words of the grammar, unlike reserved identifiers.
    Keyword(&'static str),
    Ident,
    /// An identifier between backquotes.
    Quoted,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Spanned<'t> {
    pub token: Token,
    pub offset: usize,
    pub text: &'t str,
}

/// Longer symbols stand before their prefixes.
const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%",
];
const KEYWORDS: [&str; 4] = ["in", "true", "false", "null"];

pub(crate) fn tokens<'t>(text: &'t str, issues: &mut Issues) -> Vec<Spanned<'t>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let blank = blank(rest);
        if blank > 0 {
            at += blank;
            continue;
        }
        let (token, length) = token(rest);
        match token {
            Some(token) => {
                out.push(Spanned { token, offset: at, text: &rest[..length] });
            }
            None => {
                let text = &rest[..length];
                issues.report(at, format!("Syntax error: token recognition error at: '{text}'"));
            }
        }
        at += length;
    }
    out.push(Spanned { token: Token::End, offset: text.len(), text: "<EOF>" });
    out
}

/// Bytes of white space, or of one comment, at the start.
fn blank(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    text.find(|c| !matches!(c, '\t' | ' ' | '\r' | '\n' | '\u{c}')).unwrap_or(text.len())
}

/// The token at the start and its length; without a token, the length of what is skipped.
fn token(text: &str) -> (Option<Token>, usize) {
    if let Some((token, length)) = literal(text) {
        return (token, length);
    }
    let bytes = text.as_bytes();
    if is_ident_start(bytes[0]) {
        let length = run(bytes, |b| is_ident_start(b) || b.is_ascii_digit());
        let word = &text[..length];
        let keyword = KEYWORDS.into_iter().find(|keyword| *keyword == word);
        return (Some(keyword.map_or(Token::Ident, Token::Keyword)), length);
    }
    if bytes[0] == b'`' {
        return quoted(text);
    }
    match SYMBOLS.into_iter().find(|symbol| text.starts_with(symbol)) {
        Some(symbol) => (Some(Token::Symbol(symbol)), symbol.len()),
        // `=`, `&` and `|` only exist doubled, so the character after them is wrong as well.
        None => {
            let take = if matches!(bytes[0], b'=' | b'&' | b'|') { 2 } else { 1 };
            (None, text.chars().take(take).map(char::len_utf8).sum())
        }
    }
}

fn is_ident_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn run(bytes: &[u8], accept: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !accept(*byte)).unwrap_or(bytes.len())
}

fn quoted(text: &str) -> (Option<Token>, usize) {
    let inner = run(&text.as_bytes()[1..], |b| {
        is_ident_start(b) || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'/' | b' ')
    });
    match text[1 + inner..].starts_with('`') && inner > 0 {
        true => (Some(Token::Quoted), inner + 2),
        false => (None, 1 + inner),
    }
}

fn literal(text: &str) -> Option<(Option<Token>, usize)> {
    let bytes = text.as_bytes();
    if bytes[0].is_ascii_digit()
        || (bytes[0] == b'.' && bytes.get(1).is_some_and(u8::is_ascii_digit))
    {
        let (token, length) = number(bytes);
        return Some((Some(token), length));
    }
    let prefix = run(bytes, |b| matches!(b, b'r' | b'R' | b'b' | b'B'));
    let (is_bytes, raw) = match &text[..prefix.min(2)].to_ascii_lowercase()[..] {
        "" => (false, false),
        "r" => (false, true),
        "b" => (true, false),
        "br" => (true, true),
        _ => return None,
    };
    if prefix > 2 || !matches!(bytes.get(prefix), Some(b'"' | b'\'')) {
        return None;
    }
    let token = if is_bytes { Token::Bytes } else { Token::String };
    Some(match string(&text[prefix..], raw) {
        Ok(length) => (Some(token), prefix + length),
        Err(length) => (None, prefix + length),
    })
}

fn number(bytes: &[u8]) -> (Token, usize) {
    let digits = |from: usize| run(&bytes[from..], |b| b.is_ascii_digit());
    let unsigned = |end: usize| match bytes.get(end) {
        Some(b'u' | b'U') => (Token::Uint, end + 1),
        _ => (Token::Int, end),
    };
    if bytes.starts_with(b"0x") {
        let hex = run(&bytes[2..], |b| b.is_ascii_hexdigit());
        if hex > 0 {
            return unsigned(2 + hex);
        }
    }
    let mut end = digits(0);
    let mut float = false;
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
        float = true;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = bytes.get(end + 1 + sign).map_or(0, |_| digits(end + 1 + sign));
        if exponent > 0 {
            end += 1 + sign + exponent;
            float = true;
        }
    }
    if float { (Token::Float, end) } else { unsigned(end) }
}

/// The length of the string literal at the start, or of what cannot become one.
fn string(text: &str, raw: bool) -> Result<usize, usize> {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    let long = text.starts_with(&triple);
    let end = if long { &triple[..] } else { quote };
    let mut at = end.len();
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(end) {
            return Ok(at + end.len());
        }
        let next = rest.chars().next().expect("rest is not empty");
        if !long && matches!(next, '\n' | '\r') {
            return Err(at + 1);
        }
        at += match escape(rest) {
            _ if raw || next != '\\' => next.len_utf8(),
            Some(length) => length,
            None => return Err(at + broken_escape(rest)),
        };
    }
    // Three quotes that never end are an empty string and the start of another one.
    if long { Ok(2) } else { Err(text.len()) }
}

/// The length of the escape sequence at the start, when it is one.
fn escape(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let hex = |count: usize| {
        let digits = bytes.get(2..2 + count)?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(2 + count)
    };
    match bytes.get(1)? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => {
            Some(2)
        }
        b'x' | b'X' => hex(2),
        b'u' => hex(4),
        b'U' => hex(8),
        b'0'..=b'3' => {
            let octal = bytes.get(2..4)?;
            octal.iter().all(|b| (b'0'..=b'7').contains(b)).then_some(4)
        }
        _ => None,
    }
}

/// How far a sequence goes that is none: up to the first character that is wrong.
fn broken_escape(text: &str) -> usize {
    let digits: (usize, fn(&u8) -> bool) = match text.as_bytes().get(1) {
        Some(b'x' | b'X') => (2, u8::is_ascii_hexdigit),
        Some(b'u') => (4, u8::is_ascii_hexdigit),
        Some(b'U') => (8, u8::is_ascii_hexdigit),
        Some(b'0'..=b'3') => (2, |b| (b'0'..=b'7').contains(b)),
        _ => (0, |_| false),
    };
    let right = text.bytes().skip(2).take(digits.0).take_while(|b| digits.1(b)).count();
    let wrong = if digits.0 > 0 { 2 + right } else { 1 };
    text.get(wrong..)
        .and_then(|rest| rest.chars().next())
        .map_or(text.len(), |c| wrong + c.len_utf8())
}

/// What the literal stands for, quotes and prefixes included in `text`.
pub(crate) fn unescape(text: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let quote = text.find(['"', '\'']).ok_or("unable to unescape string")?;
    let raw = text[..quote].contains(['r', 'R']);
    let body = &text[quote..];
    let marks = if body.len() >= 6 && body.starts_with(&body[..1].repeat(3)) { 3 } else { 1 };
    let body = body[marks..body.len() - marks].replace("\r\n", "\n").replace('\r', "\n");
    if raw || !body.contains('\\') {
        return Ok(body.into_bytes());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = &body[..];
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let length = escape(&rest[at..]).ok_or("unable to unescape string")?;
        unescape_one(&rest[at + 1..at + length], is_bytes, &mut out)?;
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// One escape sequence, without its backslash. In bytes, numbers are bytes; in strings, characters.
fn unescape_one(sequence: &str, is_bytes: bool, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let simple = match sequence.as_bytes()[0] {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'x' | b'X' | b'u' | b'U' | b'0'..=b'3' => return number_escape(sequence, is_bytes, out),
        other => other,
    };
    out.push(simple);
    Ok(())
}

fn number_escape(sequence: &str, is_bytes: bool, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let (digits, radix) = match sequence.as_bytes()[0] {
        b'0'..=b'3' => (sequence, 8),
        b'u' | b'U' if is_bytes => return Err("unable to unescape string"),
        _ => (&sequence[1..], 16),
    };
    let number = u32::from_str_radix(digits, radix).map_err(|_| "unable to unescape string")?;
    if is_bytes {
        out.push(u8::try_from(number).map_err(|_| "unable to unescape string")?);
    } else {
        let c = char::from_u32(number).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(Token, &str)]) {
        let mut issues = Issues::new(text);
        let found: Vec<_> = tokens(text, &mut issues).iter().map(|t| (t.token, t.text)).collect();
        assert_eq!(found[..found.len() - 1], *expected, "{text}: {issues}");
    }

    #[test]
    fn numbers_end_where_a_field_begins() {
        use Token::*;
        check("1.5e3", &[(Float, "1.5e3")]);
        check("0x1Fu", &[(Uint, "0x1Fu")]);
        check("1.e", &[(Int, "1"), (Symbol("."), "."), (Ident, "e")]);
        check("a.1", &[(Ident, "a"), (Float, ".1")]);
        check("1else", &[(Int, "1"), (Ident, "else")]);
    }

    #[test]
    fn strings_may_be_long_raw_or_bytes() {
        use Token::*;
        check(
            "'''a'b''' + r'\\d'",
            &[(String, "'''a'b'''"), (Symbol("+"), "+"), (String, "r'\\d'")],
        );
        check("bR\"\\\"", &[(Bytes, "bR\"\\\"")]);
        check("br + b''", &[(Ident, "br"), (Symbol("+"), "+"), (Bytes, "b''")]);
        assert_eq!(unescape(r"'\u00e9\n\101'", false).unwrap(), "é\nA".as_bytes());
        assert_eq!(unescape(r"b'\xff\303'", true).unwrap(), [0xff, 0o303]);
        assert_eq!(unescape("'\\ud800'", false), Err("invalid unicode code point"));
    }

    #[test]
    fn what_is_no_token_is_named_and_skipped() {
        let mut issues = Issues::new("");
        tokens("a | b = 'x", &mut issues);
        let messages: Vec<_> = issues.iter().map(|issue| &issue.message[..]).collect();
        assert_eq!(
            messages,
            [
                "Syntax error: token recognition error at: '| '",
                "Syntax error: token recognition error at: '= '",
                "Syntax error: token recognition error at: ''x'",
            ]
        );
    }
}
