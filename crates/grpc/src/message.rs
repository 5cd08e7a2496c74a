//! Messages as they lie in a body: a flag, a length, the bytes.
//!
//! Message -> frame, and a body -> its messages one by one, then the trailers.
//! Invariant: a message is refused by its announced length, before it is read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;

use crate::status::{Code, Status};

/// The flag of compression, then the length of what follows.
const PREFIX: usize = 5;

pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(length + PREFIX);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).expect("messages are far below 4 GiB"));
    message.encode(&mut framed).expect("the buffer grows");
    framed.freeze()
}

/// A body that is being read.
pub struct Messages {
    body: Incoming,
    unread: BytesMut,
    max: usize,
    /// Once the body has ended.
    trailers: HeaderMap,
}

// === impl Messages ===

impl Messages {
    pub fn new(body: Incoming, max: usize) -> Self {
        Messages { body, unread: BytesMut::new(), max, trailers: HeaderMap::new() }
    }

    /// The next message; `None` after the last.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = split_off(&mut self.unread, self.max)? {
                let malformed = |error: prost::DecodeError| {
                    Status::new(Code::Internal, format!("failed to unmarshal: {error}"))
                };
                return M::decode(message).map(Some).map_err(malformed);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
                },
                Some(Err(error)) => return Err(Status::unavailable(error)),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "unexpected EOF")),
            }
        }
    }

    /// Whole only after [`Messages::next`] has answered `None`.
    pub fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }
}

/// The first whole message of what has come so far.
fn split_off(unread: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Status> {
    let Some((flag, mut length)) = unread.get(..PREFIX).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    if *flag != 0 {
        let reason = "grpc: compressed flag set with identity or empty encoding";
        return Err(Status::new(Code::Internal, reason));
    }
    let length = length.get_u32() as usize;
    if length > max {
        let reason = format!("grpc: received message larger than max ({length} vs. {max})");
        return Err(Status::new(Code::ResourceExhausted, reason));
    }
    if unread.len() < PREFIX + length {
        return Ok(None);
    }
    unread.advance(PREFIX);
    Ok(Some(unread.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], max: usize) -> Result<Option<Bytes>, Code> {
        split_off(&mut BytesMut::from(bytes), max).map_err(|status| status.code)
    }

    #[test]
    fn messages_are_framed_and_split_off_again() {
        assert_eq!(framed(&String::new()).as_ref(), [0, 0, 0, 0, 0]);
        let mut unread = BytesMut::new();
        for text in ["abc", "", "de"] {
            unread.extend_from_slice(&framed(&text.to_owned()));
        }
        for text in ["abc", "", "de"] {
            let message = split_off(&mut unread, 100).expect("well-formed").expect("whole");
            assert_eq!(String::decode(message).expect("it reads"), text);
        }
        assert!(unread.is_empty());
    }

    #[test]
    fn a_torn_message_is_waited_for_and_a_large_or_compressed_one_refused() {
        for torn in [&[][..], &[0, 0], &[0, 0, 0, 0, 2, 8]] {
            assert_eq!(split(torn, 100), Ok(None), "{torn:?}");
        }
        assert_eq!(split(&[1, 0, 0, 0, 0], 100), Err(Code::Internal));
        assert_eq!(split(&[0, 0, 0, 1, 0], 255), Err(Code::ResourceExhausted));
        assert_eq!(split(&[0, 0, 0, 1, 0], 256), Ok(None));
    }
}
