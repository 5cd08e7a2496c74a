//! The formats of text that a schema may ask for, as a table from name to check.
//!
//! A format that is not listed says nothing. Counterpart: `kube-openapi`'s `strfmt`, whose leniencies are kept: an IPv4
//! address may have leading zeros, a duration may be spelt `2 hours`, base64 may not be empty.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

use crate::{duration, time};

/// Whether a text has the format.
pub type Check = fn(&str) -> bool;

/// By name, without dashes.
const CHECKS: &[(&str, Check)] = &[
    ("bsonobjectid", |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())),
    ("byte", |text| matches("byte", text)),
    ("cidr", is_cidr),
    ("creditcard", is_credit_card),
    ("date", is_date),
    ("datetime", is_datetime),
    ("duration", |text| duration::parse_spelt(text).is_some()),
    ("email", is_email),
    ("hexcolor", |text| matches("hexcolor", text)),
    ("hostname", is_hostname),
    ("ipv4", is_ipv4),
    ("ipv6", |text| text.contains(':') && text.parse::<Ipv6Addr>().is_ok()),
    ("isbn", |text| is_isbn10(text) || is_isbn13(text)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |text| text.len() <= 253 && matches("k8slongname", text)),
    ("k8sshortname", |text| text.len() <= 63 && matches("k8sshortname", text)),
    ("mac", is_mac),
    ("password", |_| true),
    ("rgbcolor", |text| matches("rgbcolor", text)),
    ("ssn", |text| text.len() == 11 && matches("ssn", text)),
    ("uri", is_request_uri),
    ("uuid", |text| matches("uuid", text)),
    ("uuid3", |text| matches("uuid3", text)),
    ("uuid4", |text| matches("uuid4", text)),
    ("uuid5", |text| matches("uuid5", text)),
];

const PATTERNS: &[(&str, &str)] = &[
    ("byte", r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"),
    (
        "creditcard",
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(?:222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}|6[27][0-9]{14})$",
    ),
    ("datetime", r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$"),
    ("hexcolor", r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
    (
        "hostname",
        r"^([a-zA-Z0-9\p{S}\p{L}](-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?|([a-zA-Z0-9\p{S}\p{L}]([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?\.)+[a-zA-Z\p{L}]{2,63})$",
    ),
    ("k8slongname", r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
    ("k8sshortname", r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    (
        "rgbcolor",
        r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$",
    ),
    ("ssn", r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
    ("uuid", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid3", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid4", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("uuid5", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
];

static COMPILED: LazyLock<BTreeMap<&str, Regex>> = LazyLock::new(|| {
    let compiled = |pattern| Regex::new(pattern).expect("the patterns of formats are valid");
    PATTERNS.iter().map(|(name, pattern)| (*name, compiled(pattern))).collect()
});

/// The check of a format; none for what is not known.
pub fn check(format: &str) -> Option<Check> {
    let name = format.replace('-', "");
    CHECKS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

/// Whether a schema of this type knows the format, for the warning about a definition.
pub fn is_recognized(of: &str, format: &str) -> bool {
    match of {
        "" | "string" => check(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn matches(name: &str, text: &str) -> bool {
    COMPILED[name].is_match(text)
}

// === time ===

fn is_date(text: &str) -> bool {
    text.len() == 10 && time::parse(&format!("{text}T00:00:00Z")).is_ok()
}

fn is_datetime(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(clock)) = (parts.next(), parts.next()) else { return false };
    let Some(found) = COMPILED["datetime"].captures(clock) else { return false };
    is_date(date) && &found[1] <= "23" && &found[2] <= "59" && &found[3] <= "59"
}

// === addresses ===

/// Leading zeros are taken as decimal.
fn is_ipv4(text: &str) -> bool {
    let octets: Vec<&str> = text.split('.').collect();
    let is_octet = |octet: &&str| {
        !octet.is_empty()
            && octet.bytes().all(|byte| byte.is_ascii_digit())
            && octet.parse::<u32>().is_ok_and(|number| number <= 255)
    };
    let is_mapped = || text.contains('.') && text.parse::<Ipv6Addr>().is_ok();
    (octets.len() == 4 && octets.iter().all(is_octet)) || is_mapped()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let bits = bits.bytes().all(|byte| byte.is_ascii_digit()).then(|| bits.parse::<u8>().ok());
    match (is_ipv4(address), address.parse::<IpAddr>(), bits.flatten()) {
        (_, Ok(IpAddr::V6(_)), Some(bits)) => bits <= 128,
        (true, _, Some(bits)) => bits <= 32,
        _ => false,
    }
}

fn is_mac(text: &str) -> bool {
    let separated = |separators: &[char], width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separators).collect();
        let is_hex =
            |part: &&str| part.len() == width && part.bytes().all(|b| b.is_ascii_hexdigit());
        counts.contains(&parts.len()) && parts.iter().all(is_hex)
    };
    separated(&[':'], 2, &[6, 8, 20])
        || separated(&['-'], 2, &[6, 8, 20])
        || separated(&['.'], 4, &[3, 4, 10])
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(|label| label.len() <= 63) && matches("hostname", text)
}

/// `user@host`, perhaps as `Name <user@host>`.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((_, inside)) => inside,
        None => text,
    };
    let is_atom = |part: &str| {
        let allowed = |c: char| {
            c.is_ascii_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c)
        };
        !part.is_empty()
            && part.split('.').all(|atom| !atom.is_empty() && atom.chars().all(allowed))
    };
    let is_quoted = |part: &str| part.len() > 2 && part.starts_with('"') && part.ends_with('"');
    let Some((user, host)) = address.rsplit_once('@') else { return false };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (is_atom(user) || is_quoted(user))
        && (is_atom(host) || literal.is_some_and(|address| address.parse::<IpAddr>().is_ok()))
}

/// An absolute URI, or an absolute path.
fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return false;
    }
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let scheme = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme));
    let rest = scheme.map_or(text, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return scheme.is_some();
    }
    let Some(authority) = rest.strip_prefix("//").filter(|_| scheme.is_some()) else {
        return has_valid_escapes(rest);
    };
    let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    is_authority(authority) && has_valid_escapes(path)
}

fn is_authority(text: &str) -> bool {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, port)) => (address, port),
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    is_port && !host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '}', '|'])
}

fn has_valid_escapes(path: &str) -> bool {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let mut bytes = path.as_bytes().split(|byte| *byte == b'%');
    bytes.next();
    bytes.all(|after| is_hex(after.first()) && is_hex(after.get(1)))
}

// === numbers with a check digit ===

fn is_isbn10(text: &str) -> bool {
    let bare: Vec<char> = text.chars().filter(|c| *c != '-' && !c.is_whitespace()).collect();
    let digit = |(at, c): (usize, &char)| match c {
        'X' if at == 9 => Some(10),
        c => c.to_digit(10),
    };
    let digits: Option<Vec<u32>> = bare.iter().enumerate().map(digit).collect();
    digits.is_some_and(|digits| {
        let sum: u32 = (1..).zip(&digits).map(|(factor, digit)| factor * digit).sum();
        digits.len() == 10 && sum.is_multiple_of(11)
    })
}

fn is_isbn13(text: &str) -> bool {
    let bare = text.chars().filter(|c| *c != '-' && !c.is_whitespace());
    let digits: Option<Vec<u32>> = bare.map(|c| c.to_digit(10)).collect();
    digits.is_some_and(|digits| {
        let sum: u32 = digits.iter().zip([1, 3].into_iter().cycle()).map(|(d, f)| d * f).sum();
        digits.len() == 13 && sum.is_multiple_of(10)
    })
}

fn is_credit_card(text: &str) -> bool {
    let bare: String = text.chars().filter(char::is_ascii_digit).collect();
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let digits = bare.chars().rev().filter_map(|c| c.to_digit(10)).enumerate();
    let sum: u32 = digits.map(|(at, digit)| if at % 2 == 1 { doubled(digit) } else { digit }).sum();
    matches("creditcard", &bare) && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_tells_good_from_bad() {
        for (format, good, bad) in [
            (
                "date-time",
                &["2020-01-02T03:04:05Z", "2020-01-02t03:04:05.5+01:00"][..],
                &["2020-01-02", "2020-13-02T03:04:05Z", "2020-01-02T25:04:05Z"][..],
            ),
            ("date", &["2020-02-29"], &["2021-02-29", "x", "2020-1-1"]),
            ("duration", &["1h30m", "2 weeks", "0", "1.5s"], &["soon", "", "h"]),
            ("ipv4", &["1.2.3.4", "010.1.1.1"], &["1.2.3", "::1", "256.1.1.1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "g::"]),
            ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33"]),
            ("mac", &["00:00:5e:00:53:01", "0000.5e00.5301"], &["00:00:5e", "zz:00:5e:00:53:01"]),
            ("hostname", &["a", "example.com", "1a.example.com"], &["-a", "a_b.com", ""]),
            ("email", &["a@b.c", "Ann <a@b>"], &["a", "a@", "a b@c"]),
            (
                "uri",
                &["http://a/b", "/a", "mailto:x"],
                &["a/b", "", "http://a b/", "http://a:b/", "/%zz"],
            ),
            ("byte", &["aGk=", "aGk5"], &["", "a", "a==="]),
            (
                "uuid4",
                &["f47ac10b-58cc-4372-a567-0e02b2c3d479"],
                &["f47ac10b-58cc-1372-a567-0e02b2c3d479"],
            ),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111111111111112"]),
            ("ssn", &["111-11-1111"], &["111111111"]),
            ("hexcolor", &["#FFF", "00ff00"], &["#FF"]),
            ("rgbcolor", &["rgb(1, 2,255)"], &["rgb(1,2)", "rgb(256,1,1)"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("k8s-short-name", &["a-b"], &["a.b", "A", "-a"]),
            ("k8s-long-name", &["a-b.c"], &["A.b", "a..b"]),
        ] {
            let check = check(format).expect(format);
            good.iter().for_each(|text| assert!(check(text), "{format}: {text}"));
            bad.iter().for_each(|text| assert!(!check(text), "{format}: {text}"));
        }
        assert!(check("colour").is_none() && !is_recognized("string", "colour"));
    }
}
