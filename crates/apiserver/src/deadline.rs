//! How long a request may take: `?timeout=`, or a minute.
//!
//! Query -> a limit, none for requests whose answers go on. Counterpart: `filters/request_deadline.go` and
//! `filters/timeout.go`.

use std::time::Duration;

use http::{Response, StatusCode};
use skiff_api::{Status, duration};

use crate::query::Query;
use crate::reply::{Body, with_type};
use crate::request_info::RequestInfo;

/// The default, and the most that may be asked for.
const LONGEST: Duration = Duration::from_secs(60);
pub fn of(info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Status> {
    if info.is_long_running() {
        return Ok(None);
    }
    let text = query.text("timeout");
    if text.is_empty() {
        return Ok(Some(LONGEST));
    }
    let nanos = duration::parse(text).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    // Zero and less mean nothing special was wanted.
    let asked = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    Ok(Some(asked.map_or(LONGEST, |asked| asked.min(LONGEST))))
}

/// The answer to a request that took too long: a Status, but sent as text.
pub fn passed() -> Response<Body> {
    const TEXT: &str = r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}"#;
    with_type(StatusCode::GATEWAY_TIMEOUT, "text/plain; charset=utf-8", TEXT.into())
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
        for (text, why) in
            [("abc", "invalid duration \"abc\""), ("5", "missing unit in duration \"5\"")]
        {
            let refused = limit(&format!("/version?timeout={text}")).expect_err(text);
            assert_eq!(refused, format!("{prefix}{why}"));
        }
    }
}
