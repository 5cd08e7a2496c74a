//! Bodies of requests that were answered before they were read.
//!
//! Body -> read to its end and forgotten, within bounds. A request that is refused for who sends it is answered at once,
//! while its body is still under way; a connection on which it lies unread cannot be used again, and closes on a client
//! that was told nothing of that. Counterpart: what Go's `net/http` reads after a handler has returned.
//! Invariant: no refused client makes us read more, or wait longer, than is said here.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;

/// As much as Go reads.
const MOST: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the rest of the body comes by itself: some clients wait to be told to go on, and are not.
pub fn comes_unasked<B: http_body::Body>(body: &B, headers: &HeaderMap) -> bool {
    !body.is_end_stream() && !headers.contains_key(EXPECT)
}

/// Reads what is left of a body.
pub async fn skip<B>(body: B)
where
    B: http_body::Body<Data = Bytes>,
{
    let skipped = tokio::time::timeout(PATIENCE, read_up_to(MOST, body)).await;
    if !matches!(skipped, Ok(true)) {
        tracing::debug!("the body of a refused request is left unread");
    }
}

/// Whether the body ended within so many bytes.
async fn read_up_to<B>(most: usize, body: B) -> bool
where
    B: http_body::Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut left = most;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[tokio::test]
    async fn as_much_as_is_said_is_read() {
        let of = |length: usize| Full::new(Bytes::from(vec![b'x'; length]));
        assert!(read_up_to(10, of(10)).await);
        assert!(!read_up_to(10, of(11)).await);
    }

    #[test]
    fn what_is_not_coming_is_not_waited_for() {
        let mut headers = HeaderMap::new();
        let body = Full::new(Bytes::from_static(b"x"));
        assert!(comes_unasked(&body, &headers));
        assert!(!comes_unasked(&Empty::<Bytes>::new(), &headers));
        headers.insert(EXPECT, "100-continue".parse().expect("a value"));
        assert!(!comes_unasked(&body, &headers));
    }
}
