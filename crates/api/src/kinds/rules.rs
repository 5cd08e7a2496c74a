//! Rules for texts that more than one kind holds, beside names and labels: what is wrong with one.
//!
//! Text -> faults, in upstream's words. Counterparts: `apimachinery/pkg/util/validation` and the
//! path rules of `pkg/apis/core/validation`.

use std::net::IpAddr;

use serde_json::Value;

use super::at::At;
use crate::field::{ErrorList, Path};
use crate::validation::{DNS_SUBDOMAIN_MAX, dns_subdomain, label_key};

const CONFIG_KEY_FORMAT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HEADER_FORMAT: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT_FORMAT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const UNDERSCORED_FORMAT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const HTTP_PATH_FORMAT: &str =
    "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
const DOMAIN_PATH: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";

pub fn env_var_name(text: &str) -> Vec<String> {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    fault_unless(
        text.bytes().all(printable),
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// A key of a ConfigMap or Secret, which becomes a file name.
pub fn config_key(text: &str) -> Vec<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let mut faults = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        faults.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} characters"));
    }
    if text.is_empty() || !text.bytes().all(fits) {
        faults.push(CONFIG_KEY_FORMAT.to_owned());
    }
    match text {
        "." | ".." => faults.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

pub fn http_header_name(text: &str) -> Vec<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    fault_unless(!text.is_empty() && text.bytes().all(fits), HEADER_FORMAT)
}

pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    fault_unless(numeric, PERCENT_FORMAT)
}

/// A DNS subdomain whose labels may hold underscores, as search domains do.
pub fn underscored_subdomain(text: &str) -> Vec<String> {
    let plain: Vec<String> = text
        .split('.')
        .map(|label| label.strip_prefix('_').unwrap_or(label).replace('_', "-"))
        .collect();
    let fits = |label: &String| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let mut faults = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        faults.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} characters"));
    }
    if !plain.iter().all(fits) {
        faults.push(UNDERSCORED_FORMAT.to_owned());
    }
    faults
}

/// `example.com/thing`; what is wrong with the domain or the path shows that part alone.
pub fn validate_domain_prefixed_path(at: &At, errors: &mut ErrorList) {
    if !at.needed(errors) {
        return;
    }
    let (host, path) = at.text().split_once('/').unwrap_or_default();
    if host.is_empty() || path.is_empty() {
        return at.invalid(errors, DOMAIN_PATH);
    }
    for fault in dns_subdomain(host) {
        at.invalid_as(errors, host, fault);
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(fits) {
        at.invalid_as(errors, path, HTTP_PATH_FORMAT);
    }
}

/// A label key, reported by its own name.
pub fn label_name(text: &str) -> Vec<String> {
    label_key(text)
}

pub fn one_line(text: &str) -> Vec<String> {
    fault_unless(!text.contains(['\n', '\r']), "must not contain line breaks")
}

// === addresses ===

/// An address without the ambiguities that new kinds refuse.
pub fn strict_ip(text: &str) -> Vec<String> {
    match lenient_ip(text) {
        None => vec![BAD_IP.to_owned()],
        Some(_) if text.parse::<IpAddr>().is_err() => vec!["must not have leading 0s".to_owned()],
        Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Some(_) => Vec::new(),
    }
}

/// Addresses that will be refused one day: ambiguous ones, and IPv6 spelt in an unusual way.
pub fn ip_warning(place: &Path<'_>, text: &str) -> Option<String> {
    let address = lenient_ip(text)?;
    let plain = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    if plain != address || text.parse::<IpAddr>().is_err() {
        let text = format!("non-standard IP address {text:?} is invalid: use \"{plain}\"");
        return Some(format!("{place}: {text}"));
    }
    (address.is_ipv6() && address.to_string() != text).then(|| {
        let form = "should be in RFC 5952 canonical format";
        format!("{place}: IPv6 address {text:?} {form} (\"{address}\")")
    })
}

/// A range whose address is the network's own.
pub fn strict_cidr(text: &str) -> Vec<String> {
    let Some(net) = parse_cidr(text) else { return vec![BAD_CIDR.to_owned()] };
    if has_leading_zeros(text) {
        return vec!["must not have leading 0s in IP or prefix length".to_owned()];
    }
    if is_mapped(net.0) {
        return vec!["must not have an IPv4-mapped IPv6 address".to_owned()];
    }
    fault_unless(net.0 == masked(net), "must not have bits set beyond the prefix length")
}

/// As [`strict_cidr`], spelt in the one way that names the range.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    let faults = strict_cidr(text);
    match parse_cidr(text) {
        Some((address, prefix)) if faults.is_empty() => {
            let canonical = format!("{address}/{prefix}");
            fault_unless(canonical == text, &format!("must be in canonical form (\"{canonical}\")"))
        }
        _ => faults,
    }
}

/// An address with the length of its network's prefix, spelt in the one way.
pub fn interface_address(text: &str) -> Vec<String> {
    const BAD: &str = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
    let Some((address, prefix)) = parse_cidr(text) else { return vec![BAD.to_owned()] };
    let canonical = match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => format!("{v4}/{}", prefix.saturating_sub(96)),
            None => format!("{v6}/{prefix}"),
        },
        IpAddr::V4(v4) => format!("{v4}/{prefix}"),
    };
    fault_unless(canonical == text, &format!("must be in canonical form ({canonical:?})"))
}

/// Ranges that will be refused one day: ambiguous ones, and IPv6 spelt in an unusual way.
pub fn cidr_warnings(place: &Path<'_>, text: &str) -> Vec<String> {
    let Some((address, prefix)) = parse_cidr(text) else { return Vec::new() };
    let (plain, prefix) = match address {
        IpAddr::V6(v6) if is_mapped(address) && prefix >= 96 => {
            (v6.to_ipv4_mapped().map_or(address, IpAddr::V4), prefix - 96)
        }
        _ => (address, prefix),
    };
    let network = format!("{}/{prefix}", masked((plain, prefix)));
    let mut warnings = Vec::new();
    if plain != masked((plain, prefix)) {
        let most = if plain.is_ipv4() { 32 } else { 128 };
        let context = "is ambiguous in this context";
        warnings.push(format!(
            "{place}: CIDR value {text:?} {context} (should be {network:?} or \"{plain}/{most}\"?)"
        ));
    }
    if has_leading_zeros(text) || plain != address {
        let fault = format!("is invalid: use {network:?}");
        warnings.push(format!("{place}: non-standard CIDR value {text:?} {fault}"));
    }
    let canonical = format!("{address}/{prefix}");
    if warnings.is_empty() && plain.is_ipv6() && canonical != text {
        let form = "should be in RFC 5952 canonical format";
        warnings.push(format!("{place}: IPv6 CIDR value {text:?} {form} ({canonical:?})"));
    }
    warnings
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn has_leading_zeros(range: &str) -> bool {
    let (address, prefix) = range.split_once('/').unwrap_or_default();
    address.parse::<IpAddr>().is_err() || (prefix.len() > 1 && prefix.starts_with('0'))
}

/// Reads an address, leading zeros and all.
pub fn lenient_ip(text: &str) -> Option<IpAddr> {
    let plain: Vec<&str> = text
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect();
    text.parse().ok().or_else(|| plain.join(".").parse().ok())
}

/// Address and prefix length.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address = lenient_ip(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let numeric = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = numeric.then(|| prefix.parse().ok())?.filter(|prefix| *prefix <= most)?;
    Some((address, prefix))
}

/// The network address of a range.
pub fn masked((address, prefix): (IpAddr, u8)) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// Faults of an address that others are to reach something at.
pub fn not_special(address: IpAddr) -> Vec<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    let unspecified = format!("{address}");
    [
        (address.is_unspecified() && unspecified == "0.0.0.0", "may not be unspecified (0.0.0.0)"),
        (address.is_unspecified() && unspecified == "::", "may not be unspecified (::)"),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ]
    .into_iter()
    .filter_map(|(holds, fault)| holds.then_some(fault))
    .collect()
}

// === paths ===

/// A relative path that stays below where it starts.
pub fn descending_path(text: &str) -> Vec<String> {
    let mut faults = fault_unless(!text.starts_with('/'), "must be a relative path");
    faults.extend(no_backsteps(text));
    faults
}

/// As [`descending_path`], and not one of the names that volumes keep for themselves.
pub fn unreserved_path(text: &str) -> Vec<String> {
    let mut faults = descending_path(text);
    if text.starts_with("..") && !text.starts_with("../") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

pub fn no_backsteps(text: &str) -> Vec<String> {
    fault_unless(text.split('/').all(|part| part != ".."), "must not contain '..'")
}

// === numbers and percentages ===

/// A number or percentage that is not negative.
pub fn validate_int_or_percent(at: &At, errors: &mut ErrorList) {
    match at.value {
        Value::String(_) => at.obeys(errors, percent),
        _ => at.not_negative(errors),
    }
}

pub fn validate_at_most_100_percent(at: &At, errors: &mut ErrorList) {
    let digits = at.text().strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
    if digits.is_some_and(|percent| percent > 100) {
        at.invalid(errors, "must not be greater than 100%");
    }
}

/// The number, a percentage's number, or 0 for what is neither.
pub fn int_or_percent(value: &Value) -> i64 {
    match value {
        Value::String(text) if !percent(text).is_empty() => text.parse().unwrap_or(0),
        Value::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        _ => value.as_i64().unwrap_or(0),
    }
}

fn fault_unless(holds: bool, fault: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![fault.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_held_against_their_rule() {
        type Rule = fn(&str) -> Vec<String>;
        let cases: &[(Rule, &str, &[&str])] = &[
            (config_key, "a.b_C-1", &[]),
            (config_key, "..", &["must not be '..'"]),
            (config_key, "..a", &["must not start with '..'"]),
            (env_var_name, "a b", &[]),
            (percent, "25%", &[]),
            (percent, "25", &[PERCENT_FORMAT]),
            (underscored_subdomain, "_tcp.a_b.example", &[]),
            (unreserved_path, "../x", &["must not contain '..'"]),
            (unreserved_path, "..data", &["must not start with '..'"]),
            (strict_ip, "010.0.0.1", &["must not have leading 0s"]),
            (strict_ip, "::ffff:1.2.3.4", &["must not be an IPv4-mapped IPv6 address"]),
            (strict_cidr, "10.0.0.5/24", &["must not have bits set beyond the prefix length"]),
            (strict_cidr, "10.0.0.0/33", &[BAD_CIDR]),
            (strict_cidr, "::ffff:1.2.3.0/120", &["must not have an IPv4-mapped IPv6 address"]),
            (canonical_cidr, "FD00::/8", &["must be in canonical form (\"fd00::/8\")"]),
        ];
        for (rule, text, faults) in cases {
            assert_eq!(rule(text), *faults, "{text}");
        }
    }
}
