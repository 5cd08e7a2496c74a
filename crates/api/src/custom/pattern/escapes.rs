//! Escapes, classes and counts inside of a pattern, each read on its own.

use regex::Regex;

/// What an escape stands for.
pub enum Escaped {
    Char(char),
    /// What stands between the brackets of a class.
    Set(String),
}

pub const PERL_CLASSES: &[(char, &str)] = &[
    ('d', "0-9"),
    ('D', "[^0-9]"),
    ('s', r"\t\n\x0C\r "),
    ('S', r"[^\t\n\x0C\r ]"),
    ('w', "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]"),
];

pub const POSIX_CLASSES: &[&str] = &[
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
pub fn unicode_class(text: &str) -> Result<(usize, Escaped), String> {
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
pub fn hexadecimal(text: &str) -> Option<(usize, Escaped)> {
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
pub fn end_of_hex(text: &str) -> usize {
    let start = 2 + usize::from(text[2..].starts_with('{'));
    let digits = text[start..].find(|c: char| !c.is_ascii_hexdigit());
    let digits = digits.unwrap_or(text.len() - start);
    let next = text[start + digits..].chars().next().map_or(0, char::len_utf8);
    start + digits + next
}

/// Up to three octal digits.
pub fn octal(text: &str) -> (usize, Escaped) {
    let digits: String =
        text[1..].chars().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
    let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
    (1 + digits.len(), Escaped::Char(char::from_u32(code).unwrap_or_default()))
}

pub fn push_class_char(out: &mut String, c: char) {
    match c.is_ascii_alphanumeric() || !c.is_ascii() {
        true => out.push(c),
        false => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
    }
}

/// Length, least and most of a count in braces; none if it is not one.
pub fn counts(text: &str) -> Option<(usize, u32, Option<u32>)> {
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
