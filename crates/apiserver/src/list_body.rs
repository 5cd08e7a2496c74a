//! A JSON list as it goes over the wire: pieces that share the stored bytes.
//!
//! A short list is put together once and sent in one piece, which is quickest. A long one is never put together: the
//! objects a reflector lists are held by the store alone, however many reflectors list them at once.
//! Counterpart: `StreamingCollectionEncodingToJSON`. Invariant: the length is known before the first piece goes.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use skiff_api::codec;

use crate::encode::head_of;
use crate::objects;
use crate::reply::{self, Body, BoxError, List};
use crate::unread;

/// A list up to this length is copied into one piece.
const SHORT: usize = 1 << 20;

const OPEN: Bytes = Bytes::from_static(b"{");
const NEXT: Bytes = Bytes::from_static(b",");
const NEXT_OPEN: Bytes = Bytes::from_static(b",{");
const END: Bytes = Bytes::from_static(b"]}");

/// The pieces of a list, in order.
pub struct Pieces {
    pieces: Vec<Bytes>,
    length: usize,
}

/// What is left to send.
struct Frames {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
}

// === impl Pieces ===

impl Pieces {
    /// Items of built-in kinds leave kind and version to the list, as upstream's typed lists do.
    pub fn of(list: &List) -> Pieces {
        let api_version = list.kind.api_version();
        let head =
            codec::list_head(&codec::ListHead { api_version: &api_version, ..head_of(list) });
        let mut pieces = Pieces { pieces: Vec::with_capacity(list.items.len() * 2 + 2), length: 0 };
        pieces.push(head);
        for (at, item) in list.items.iter().enumerate() {
            let bare = match list.kind.custom {
                true => None,
                false => objects::without_head(&list.kind, item).map(|rest| item.slice_ref(rest)),
            };
            match (at, &bare) {
                (0, None) => {}
                (0, Some(_)) => pieces.push(OPEN),
                (_, None) => pieces.push(NEXT),
                (_, Some(_)) => pieces.push(NEXT_OPEN),
            }
            pieces.push(bare.unwrap_or_else(|| item.clone()));
        }
        pieces.push(END);
        pieces
    }

    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        self.pieces.push(piece);
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Everything in one piece.
    pub fn joined(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        out.into()
    }

    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        self.pieces.iter().try_for_each(|piece| out.write_all(piece))
    }

    pub fn into_body(self) -> Body {
        match self.length <= SHORT {
            true => reply::full(self.joined()),
            false => {
                let frames = Frames { left: self.length as u64, pieces: self.pieces.into_iter() };
                unread::let_go(frames.boxed_unsync(), unread::PATIENCE)
            }
        }
    }
}

// === impl Frames ===

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.pieces.next();
        if let Some(piece) = &piece {
            self.left -= piece.len() as u64;
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(count: usize) -> List {
        let kinds = skiff_api::kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("a built-in kind").clone();
        let filler = "x".repeat(1000);
        let item = |at| {
            let name = format!("m{at}");
            let object = json!({"metadata": {"name": name}, "data": {"filler": filler}});
            objects::plain_bytes(&kind, &object)
        };
        let items = (0..count).map(item).collect();
        let (resource_version, continue_token) = ("7".to_owned(), String::new());
        List { kind, items, resource_version, continue_token, remaining: None }
    }

    #[test]
    fn a_list_reads_the_same_whole_and_in_pieces() {
        for count in [0, 1, 3] {
            let pieces = Pieces::of(&list(count));
            let whole: Value = serde_json::from_slice(&pieces.joined()).expect("JSON");
            assert_eq!(whole["kind"], "ConfigMapList");
            assert_eq!(whole["items"].as_array().map(Vec::len), Some(count));
            assert!(whole["items"].as_array().unwrap().iter().all(|item| item["kind"].is_null()));
            let mut written = Vec::new();
            pieces.write_to(&mut written).expect("writing to memory");
            assert_eq!((written.len(), &written[..]), (pieces.len(), &pieces.joined()[..]));
        }
    }

    #[tokio::test]
    async fn a_long_list_is_sent_from_the_bytes_that_are_stored() {
        let list = list(2000);
        let stored = list.items[1000].as_ptr_range();
        let mut body = Pieces::of(&list).into_body();
        let announced = http_body::Body::size_hint(&body).exact();
        let (mut sent, mut shared) = (0, false);
        while let Some(frame) = body.frame().await {
            let data = frame.expect("no error").into_data().expect("data");
            sent += data.len() as u64;
            shared |= stored.contains(&data.as_ptr());
        }
        assert_eq!(announced, Some(sent));
        assert!(shared, "the bytes of an item were copied");
    }
}
