//! URLs. Counterpart: `library/urls.go` of `k8s.io/apiserver`, over Go's `net/url`.
//!
//! Only URLs a request can be made to are taken: with a scheme and a host, or an absolute path.

use std::any::Any;
use std::collections::BTreeMap;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Key, Opaque, Value};

pub(super) const TABLE: &[Row] = &[
    row("url", "string_to_url", "(string) -> kubernetes.URL", parse).costs(Cost::Scan),
    row("getScheme", "url_get_scheme", "kubernetes.URL.() -> string", |args| {
        part(args, |url| &url.scheme)
    }),
    row("getHost", "url_get_host", "kubernetes.URL.() -> string", |args| {
        part(args, |url| &url.host)
    }),
    row("getHostname", "url_get_hostname", "kubernetes.URL.() -> string", |args| {
        part(args, |url| url.host_port().0)
    }),
    row("getPort", "url_get_port", "kubernetes.URL.() -> string", |args| {
        part(args, |url| url.host_port().1)
    }),
    row("getEscapedPath", "url_get_escaped_path", "kubernetes.URL.() -> string", |args| {
        part(args, |url| &url.path)
    }),
    row("getQuery", "url_get_query", "kubernetes.URL.() -> map(string, list(string))", query),
    row("isURL", "is_url_string", "(string) -> bool", is_url),
];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Url {
    scheme: String,
    host: String,
    /// As it goes into a request.
    path: String,
    query: String,
}

impl Opaque for Url {
    fn cel_type(&self) -> Type {
        Type::object("kubernetes.URL")
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// === impl Url ===

impl Url {
    pub(super) fn read(text: &str) -> Result<Url, String> {
        let why = |reason: &str| format!("parse {text:?}: {reason}");
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(why("net/url: invalid control character in URL"));
        }
        if text.is_empty() {
            return Err(why("empty url"));
        }
        let (scheme, rest) = split_scheme(text).map_err(why)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            // Neither a path nor a host: opaque with a scheme, unusable without.
            return match scheme.is_empty() {
                true => Err(why("invalid URI for request")),
                false => Ok(Url {
                    scheme,
                    host: String::new(),
                    path: String::new(),
                    query: query.to_owned(),
                }),
            };
        }
        let authority =
            rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        let (host, path) = match authority {
            Some(authority) if !scheme.is_empty() => {
                authority.split_at(authority.find('/').unwrap_or(authority.len()))
            }
            _ => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        check_host(host).map_err(|reason| why(&reason))?;
        check_escapes(path).map_err(|reason| why(&reason))?;
        Ok(Url { scheme, host: host.to_owned(), path: escape(path), query: query.to_owned() })
    }

    /// Host without brackets, and port.
    fn host_port(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').unwrap_or((rest, ""));
            return (address, rest.strip_prefix(':').unwrap_or_default());
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }
}

fn split_scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), String> {
    let after = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    let digits = after.strip_prefix(':').map(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !after.is_empty() && digits != Some(true) {
        return Err(format!("invalid port {after:?} after host"));
    }
    match host
        .chars()
        .find(|c| matches!(c, ' ' | '<' | '>' | '"' | '{' | '}' | '|' | '\\' | '^' | '`'))
    {
        Some(' ') => Err("invalid character \" \" in host name".to_owned()),
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => check_escapes(host),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = rest[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
        rest = &rest[at + 3..];
    }
    Ok(())
}

/// A path with everything escaped that has to be; what is escaped already stays.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            b'-' | b'_' | b'.' | b'~' | b'/' | b'$' | b'&' | b'+' | b',' | b':' | b';' | b'='
            | b'@' | b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%' => {
                out.push(byte.into())
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A part of a query as it was before it was escaped; `None` if it never was.
fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                at += 2;
            }
            other => out.push(other),
        }
        at += 1;
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

// === functions ===

fn parse<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text)] = args else { return no_overload() };
    Url::read(text).map(Value::opaque).map_err(|why| {
        EvalError::Other(format!("URL parse error during conversion from string: {why}"))
    })
}

fn is_url<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Url::read(text).is_ok())),
        _ => no_overload(),
    }
}

fn part<'a>(args: Args<'_, 'a>, part: for<'u> fn(&'u Url) -> &'u str) -> Evaluated<'a> {
    match args {
        [value] => value.downcast().map_or_else(no_overload, |url| Ok(Value::string(part(url)))),
        _ => no_overload(),
    }
}

fn query<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [value] = args else { return no_overload() };
    let Some(url) = value.downcast::<Url>() else { return no_overload() };
    let mut values: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescape(key), unescape(value)) {
            values.entry(key).or_default().push(Value::string(value));
        }
    }
    let entry = |(key, values): (String, _)| (Key::from(&*key), Value::list(values));
    Ok(Value::map(values.into_iter().map(entry).collect()))
}
