//! Addresses and networks. Counterpart: `library/ip.go` and `cidr.go` of `k8s.io/apiserver`.
//!
//! Invariant: no zones, and no IPv4 address written as IPv6.

use std::any::Any;
use std::net::IpAddr;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Opaque, Value};

pub(super) const TABLE: &[Row] = &[
    row("ip", "string_to_ip", "(string) -> net.IP", |args| {
        from_text(args, |text| Ok(Value::opaque(parse_ip(text)?)))
    })
    .costs(Cost::Parse(1.0)),
    row("family", "ip_family", "net.IP.() -> int", |args| {
        of_ip(args, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 }))
    }),
    row("ip.isCanonical", "ip_is_canonical", "(string) -> bool", |args| {
        from_text(args, |text| Ok(Value::Bool(parse_ip(text)?.0.to_string() == text)))
    })
    .costs(Cost::Parse(2.0)),
    row("isUnspecified", "ip_is_unspecified", "net.IP.() -> bool", |args| {
        test(args, |ip| ip.is_unspecified())
    }),
    row("isLoopback", "ip_is_loopback", "net.IP.() -> bool", |args| {
        test(args, |ip| ip.is_loopback())
    }),
    row("isLinkLocalMulticast", "ip_is_link_local_multicast", "net.IP.() -> bool", |args| {
        test(args, is_link_local_multicast)
    }),
    row("isLinkLocalUnicast", "ip_is_link_local_unicast", "net.IP.() -> bool", |args| {
        test(args, is_link_local_unicast)
    }),
    row("isGlobalUnicast", "ip_is_global_unicast", "net.IP.() -> bool", |args| {
        test(args, is_global_unicast)
    }),
    row("isIP", "is_ip", "(string) -> bool", |args| {
        from_text(args, |text| Ok(Value::Bool(parse_ip(text).is_ok())))
    })
    .costs(Cost::Parse(1.0)),
    row("string", "ip_to_string", "(net.IP) -> string", |args| {
        of_ip(args, |ip| Value::string(ip.to_string()))
    }),
];

pub(super) const CIDR: &[Row] = &[
    row("cidr", "string_to_cidr", "(string) -> net.CIDR", |args| {
        from_text(args, |text| Ok(Value::opaque(cidr(text)?)))
    })
    .costs(Cost::Parse(1.0)),
    row("containsIP", "cidr_contains_ip_string", "net.CIDR.(string) -> bool", contains_ip)
        .costs(Cost::ContainsIp(true)),
    row("containsIP", "cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool", contains_ip)
        .costs(Cost::ContainsIp(false)),
    row("containsCIDR", "cidr_contains_cidr_string", "net.CIDR.(string) -> bool", contains_cidr)
        .costs(Cost::ContainsCidr(true)),
    row("containsCIDR", "cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool", contains_cidr)
        .costs(Cost::ContainsCidr(false)),
    row("ip", "cidr_ip", "net.CIDR.() -> net.IP", |args| {
        of_cidr(args, |cidr| Value::opaque(Ip(cidr.address)))
    }),
    row("prefixLength", "cidr_prefix_length", "net.CIDR.() -> int", |args| {
        of_cidr(args, |cidr| Value::Int(cidr.bits.into()))
    }),
    row("masked", "cidr_masked", "net.CIDR.() -> net.CIDR", |args| {
        of_cidr(args, |cidr| Value::opaque(cidr.masked()))
    }),
    row("isCIDR", "is_cidr", "(string) -> bool", |args| {
        from_text(args, |text| Ok(Value::Bool(parse_cidr(text).is_ok())))
    })
    .costs(Cost::Parse(1.0)),
    row("string", "cidr_to_string", "(net.CIDR) -> string", |args| {
        of_cidr(args, |cidr| Value::string(format!("{}/{}", cidr.address, cidr.bits)))
    }),
];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ip(IpAddr);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Opaque for Ip {
    fn cel_type(&self) -> Type {
        Type::opaque("net.IP")
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    /// Bytes.
    fn size(&self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for Cidr {
    fn cel_type(&self) -> Type {
        Type::opaque("net.CIDR")
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    /// Bytes the prefix takes.
    fn size(&self) -> u64 {
        u64::from(self.bits).div_ceil(8)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// === reading ===

fn parse_ip(text: &str) -> Result<Ip, EvalError> {
    if text.contains('%') {
        let message = format!("IP address {text:?} with zone value is not allowed");
        return Err(EvalError::other(message));
    }
    let Ok(address) = text.parse() else {
        return Err(EvalError::other(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {}",
            why_no_address(text)
        )));
    };
    if is_mapped(&address) {
        let message = format!("IPv4-mapped IPv6 address {text:?} is not allowed");
        return Err(EvalError::other(message));
    }
    Ok(Ip(address))
}

fn is_mapped(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn why_no_address(text: &str) -> String {
    if !text.contains([':', '.']) {
        return "unable to parse IP".to_owned();
    }
    if text.contains(':') {
        return "each colon-separated field must have at least one digit".to_owned();
    }
    let fields: Vec<&str> = text.split('.').collect();
    let too_large = |field: &&str| field.parse::<u32>().is_ok_and(|number| number > 255);
    let leading_zero = |field: &&str| field.len() > 1 && field.starts_with('0');
    if fields.iter().any(too_large) {
        "IPv4 field has value >255".to_owned()
    } else if fields.iter().any(leading_zero) {
        "IPv4 field has octet with leading zero".to_owned()
    } else if fields.len() > 4 {
        "IPv4 address too long".to_owned()
    } else if fields.iter().any(|field| field.is_empty()) {
        "IPv4 field must have at least one digit".to_owned()
    } else if fields.len() < 4 {
        "IPv4 address too short".to_owned()
    } else {
        "unexpected character".to_owned()
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let why = |reason: &str| Err(format!("netip.ParsePrefix({text:?}): {reason}"));
    let Some((address, length)) = text.rsplit_once('/') else { return why("no '/'") };
    if address.contains('%') {
        return why("IPv6 zones cannot be present in a prefix");
    }
    let Ok(address) = address.parse::<IpAddr>() else {
        return why(&format!("ParseAddr({address:?}): {}", why_no_address(address)));
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (length.len() == 1 || !length.starts_with('0'));
    let Some(bits) = length.parse::<u8>().ok().filter(|_| plain) else {
        return why(&format!("bad bits after slash: {length:?}"));
    };
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return why("prefix length out of range");
    }
    if is_mapped(&address) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(Cidr { address, bits })
}

fn cidr(text: &str) -> Result<Cidr, EvalError> {
    // The reason is introduced twice, as users know it.
    let introduced = |why: String| match why.starts_with("IPv4-mapped") {
        true => why,
        false => format!("network address parse error during conversion from string: {why}"),
    };
    parse_cidr(text).map_err(|why| {
        let why = introduced(why);
        EvalError::Other(format!(
            "network address parse error during conversion from string: {why}"
        ))
    })
}

// === impl Cidr ===

impl Cidr {
    fn masked(self) -> Cidr {
        let keep = |value: u128, width: u32| {
            let dropped = width - u32::from(self.bits);
            value.checked_shr(dropped).and_then(|kept| kept.checked_shl(dropped)).unwrap_or(0)
        };
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4((keep(u32::from(v4).into(), 32) as u32).into()),
            IpAddr::V6(v6) => IpAddr::V6(keep(v6.into(), 128).into()),
        };
        Cidr { address, ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Cidr { address, ..self }.masked() == self.masked()
    }
}

// === functions ===

fn from_text<'a>(args: Args<'_, 'a>, read: impl FnOnce(&str) -> Evaluated<'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => read(text),
        _ => no_overload(),
    }
}

fn of_ip<'a>(args: Args<'_, 'a>, answer: fn(IpAddr) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [value] => value.downcast::<Ip>().map_or_else(no_overload, |ip| Ok(answer(ip.0))),
        _ => no_overload(),
    }
}

fn test<'a>(args: Args<'_, 'a>, holds: fn(IpAddr) -> bool) -> Evaluated<'a> {
    match args {
        [value] => {
            value.downcast::<Ip>().map_or_else(no_overload, |ip| Ok(Value::Bool(holds(ip.0))))
        }
        _ => no_overload(),
    }
}

fn of_cidr<'a>(args: Args<'_, 'a>, answer: fn(Cidr) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [value] => value.downcast::<Cidr>().map_or_else(no_overload, |cidr| Ok(answer(*cidr))),
        _ => no_overload(),
    }
}

fn contains_ip<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [outer, inner] = args else { return no_overload() };
    let Some(outer) = outer.downcast::<Cidr>() else { return no_overload() };
    let inner = match (inner, inner.downcast::<Ip>()) {
        (_, Some(ip)) => *ip,
        (Value::String(text), _) => parse_ip(text)?,
        _ => return no_overload(),
    };
    Ok(Value::Bool(outer.contains(inner.0)))
}

fn contains_cidr<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [outer, inner] = args else { return no_overload() };
    let Some(outer) = outer.downcast::<Cidr>() else { return no_overload() };
    let inner = match (inner, inner.downcast::<Cidr>()) {
        (_, Some(cidr)) => *cidr,
        (Value::String(text), _) => cidr(text)?,
        _ => return no_overload(),
    };
    Ok(Value::Bool(outer.bits <= inner.bits && outer.contains(inner.address)))
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let local = is_link_local_unicast(ip);
    !(broadcast || local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}
