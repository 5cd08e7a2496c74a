//! How long a request may take: `?timeout=`, or a minute.
//!
//! Query -> a limit, none for requests whose answers go on. Counterpart: `filters/request_deadline.go` and
//! `filters/timeout.go`. Wording as Go's `time.ParseDuration` gives it.

use std::time::Duration;

use http::{Response, StatusCode};
use skiff_api::Status;

use crate::query::Query;
use crate::reply::{Body, with_type};
use crate::request_info::RequestInfo;

/// The default, and the most that may be asked for.
const LONGEST: Duration = Duration::from_secs(60);
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

pub fn of(info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Status> {
    if info.is_long_running() {
        return Ok(None);
    }
    let text = query.text("timeout");
    if text.is_empty() {
        return Ok(Some(LONGEST));
    }
    let seconds = parse(text).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    // Zero and less mean nothing special was wanted.
    let asked = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Ok(Some(if asked.is_zero() { LONGEST } else { asked.min(LONGEST) }))
}

/// The answer to a request that took too long: a Status, but sent as text.
pub fn passed() -> Response<Body> {
    const TEXT: &str = r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}"#;
    with_type(StatusCode::GATEWAY_TIMEOUT, "text/plain; charset=utf-8", TEXT.into())
}

/// `1h2m3.5s` in seconds.
fn parse(text: &str) -> Result<f64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..end];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let found = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, seconds) =
            found.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += number * seconds;
        rest = &rest[end..];
    }
    Ok(sign * total)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn limit(path_and_query: &str) -> Result<Option<Duration>, String> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let query = Query::parse(query);
        let info = RequestInfo::read(&Method::GET, path, &query);
        of(&info, &query).map_err(|status| status.message)
    }

    #[test]
    fn a_minute_is_the_default_and_the_most() {
        assert_eq!(limit("/api/v1/pods"), Ok(Some(LONGEST)));
        assert_eq!(limit("/api/v1/pods?timeout=1h30m"), Ok(Some(LONGEST)));
        assert_eq!(limit("/api/v1/pods?timeout=0"), Ok(Some(LONGEST)));
        assert_eq!(limit("/api/v1/pods?timeout=-1s"), Ok(Some(LONGEST)));
        assert_eq!(limit("/api/v1/pods?timeout=1.5s"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(limit("/api/v1/pods?watch=1&timeout=abc"), Ok(None));
    }

    #[test]
    fn refusals_are_in_gos_words() {
        let prefix = "invalid timeout specified in the request URL - time: ";
        for (text, why) in [
            ("abc", "invalid duration \"abc\""),
            ("5", "missing unit in duration \"5\""),
            ("5x", "unknown unit \"x\" in duration \"5x\""),
            ("1s5", "missing unit in duration \"1s5\""),
        ] {
            let refused = limit(&format!("/version?timeout={text}")).expect_err(text);
            assert_eq!(refused, format!("{prefix}{why}"));
        }
    }
}
