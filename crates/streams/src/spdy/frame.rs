//! SPDY/3.1 frames: bytes in, [`Frame`]s out, and back.
//!
//! Counterpart: `moby/spdystream/spdy` (read.go, write.go); facts: SPDY draft 3, section 2.2 and 2.6.
//! A data frame longer than a chunk is read as several, so that its size bounds nothing here.
//!
//! Invariant: any input gives frames or a [`ProtocolError`], never a panic and never more memory than
//! `MAX_CONTROL` plus a chunk.

use std::io;

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::headers::{HeaderDeflater, HeaderInflater, Headers};
use crate::mux::{MAX_CHUNK, StreamId};

const CONTROL: u32 = 0x8000_0000;
const VERSION: u16 = 3;
const ID_MASK: u32 = 0x7fff_ffff;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
/// The longest control frame accepted.
const MAX_CONTROL: usize = 64 * 1024;
pub(crate) const SETTING_INITIAL_WINDOW_SIZE: u32 = 7;

/// Frame types, SPDY draft 3 section 2.6.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// RST_STREAM status codes that are sent from here.
pub(crate) mod status {
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const REFUSED_STREAM: u32 = 3;
    pub(crate) const INTERNAL_ERROR: u32 = 6;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProtocolError(pub &'static str);

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream { stream: StreamId, headers: Headers, fin: bool, unidirectional: bool },
    SynReply { stream: StreamId, headers: Headers, fin: bool },
    RstStream { stream: StreamId, status: u32 },
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway { last_good: StreamId, status: u32 },
    Headers { stream: StreamId, headers: Headers, fin: bool },
    WindowUpdate { stream: StreamId, delta: u32 },
    Data { stream: StreamId, data: Bytes, fin: bool },
}

pub(crate) struct FrameReader<R> {
    io: BufReader<R>,
    inflater: HeaderInflater,
    /// What is still to come of the data frame being read.
    rest: Option<DataRest>,
}

#[derive(Clone, Copy)]
struct DataRest {
    stream: StreamId,
    length: usize,
    fin: bool,
}

pub(crate) struct FrameWriter {
    deflater: HeaderDeflater,
}

// === impl FrameReader ===

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R) -> Self {
        FrameReader {
            io: BufReader::with_capacity(MAX_CHUNK, io),
            inflater: HeaderInflater::new(),
            rest: None,
        }
    }

    /// The next frame, or none at a clean end. Not cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(rest) = self.rest.take() {
                return self.data(rest).await.map(Some);
            }
            let first = match self.io.read_u32().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                first => first?,
            };
            let second = self.io.read_u32().await?;
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            if first & CONTROL == 0 {
                if first == 0 {
                    return Err(ProtocolError("stream id zero is disallowed").into());
                }
                self.rest = Some(DataRest { stream: first, length, fin: flags & FLAG_FIN != 0 });
            } else if let Some(frame) = self.control(first, flags, length).await? {
                return Ok(Some(frame));
            }
        }
    }

    /// One chunk of a data frame; only the last carries its end-of-stream flag.
    async fn data(&mut self, mut rest: DataRest) -> io::Result<Frame> {
        let mut data = vec![0; rest.length.min(MAX_CHUNK)];
        self.io.read_exact(&mut data).await?;
        rest.length -= data.len();
        let last = rest.length == 0;
        if !last {
            self.rest = Some(rest);
        }
        Ok(Frame::Data { stream: rest.stream, data: data.into(), fin: rest.fin && last })
    }

    /// A control frame, or none for a type this version does not know (section 2.2.1: ignore it).
    async fn control(&mut self, first: u32, flags: u8, length: usize) -> io::Result<Option<Frame>> {
        let version = ((first & ID_MASK) >> 16) as u16;
        if version != VERSION {
            return Err(ProtocolError("unsupported spdy version").into());
        }
        if length > MAX_CONTROL {
            return Err(ProtocolError("control frame too large").into());
        }
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await?;
        Ok(parse_control(&mut self.inflater, first as u16, flags, &payload)?)
    }
}

fn parse_control(
    inflater: &mut HeaderInflater,
    frame_kind: u16,
    flags: u8,
    mut payload: &[u8],
) -> Result<Option<Frame>, ProtocolError> {
    let mut word = || -> Result<u32, ProtocolError> {
        payload.try_get_u32().map_err(|_| ProtocolError("control frame too short"))
    };
    let fin = flags & FLAG_FIN != 0;
    let frame = match frame_kind {
        kind::SYN_STREAM => return parse_syn_stream(inflater, flags, payload).map(Some),
        kind::SYN_REPLY => {
            Frame::SynReply { stream: word()? & ID_MASK, headers: inflater.read(payload)?, fin }
        }
        kind::HEADERS => {
            Frame::Headers { stream: word()? & ID_MASK, headers: inflater.read(payload)?, fin }
        }
        kind::RST_STREAM => Frame::RstStream { stream: word()? & ID_MASK, status: word()? },
        kind::SETTINGS => {
            let count = word()?;
            // The top byte of an id holds flags about persistence.
            let settings = (0..count).map(|_| Ok((word()? & 0x00ff_ffff, word()?)));
            Frame::Settings(settings.collect::<Result<_, ProtocolError>>()?)
        }
        kind::PING => Frame::Ping(word()?),
        kind::GOAWAY => Frame::GoAway { last_good: word()? & ID_MASK, status: word()? },
        kind::WINDOW_UPDATE => {
            Frame::WindowUpdate { stream: word()? & ID_MASK, delta: word()? & ID_MASK }
        }
        _ => return Ok(None),
    };
    Ok(Some(frame))
}

fn parse_syn_stream(
    inflater: &mut HeaderInflater,
    flags: u8,
    payload: &[u8],
) -> Result<Frame, ProtocolError> {
    // Number, number of an associated stream, priority, credential slot: only the first has a use.
    let (mut numbers, block) =
        payload.split_at_checked(10).ok_or(ProtocolError("control frame too short"))?;
    Ok(Frame::SynStream {
        stream: numbers.get_u32() & ID_MASK,
        headers: inflater.read(block)?,
        fin: flags & FLAG_FIN != 0,
        unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
    })
}

// === impl FrameWriter ===

impl FrameWriter {
    pub(crate) fn new() -> Self {
        FrameWriter { deflater: HeaderDeflater::new() }
    }

    /// Appends the frame's bytes. Frames must be put on the wire in the order they are written here.
    pub(crate) fn write(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::Data { stream, data, fin } => {
                out.put_u32(stream & ID_MASK);
                put_length(out, flag(*fin, FLAG_FIN), data.len());
                out.put_slice(data);
            }
            Frame::SynStream { stream, headers, fin, unidirectional } => {
                let mut payload = Vec::new();
                payload.put_u32(*stream);
                payload.put_u32(0);
                payload.put_u16(0);
                self.deflater.write(headers, &mut payload);
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                put_control(out, kind::SYN_STREAM, flags, &payload);
            }
            Frame::SynReply { stream, headers, fin } => {
                self.with_headers(out, kind::SYN_REPLY, *stream, headers, *fin)
            }
            Frame::Headers { stream, headers, fin } => {
                self.with_headers(out, kind::HEADERS, *stream, headers, *fin)
            }
            Frame::RstStream { stream, status } => {
                put_words(out, kind::RST_STREAM, &[*stream, *status]);
            }
            Frame::Settings(settings) => {
                let mut words = vec![settings.len() as u32];
                words.extend(settings.iter().flat_map(|(id, value)| [*id, *value]));
                put_words(out, kind::SETTINGS, &words);
            }
            Frame::Ping(id) => put_words(out, kind::PING, &[*id]),
            Frame::GoAway { last_good, status } => {
                put_words(out, kind::GOAWAY, &[*last_good, *status]);
            }
            Frame::WindowUpdate { stream, delta } => {
                put_words(out, kind::WINDOW_UPDATE, &[*stream, *delta]);
            }
        }
    }

    fn with_headers(
        &mut self,
        out: &mut Vec<u8>,
        frame_kind: u16,
        stream: StreamId,
        headers: &Headers,
        fin: bool,
    ) {
        let mut payload = Vec::new();
        payload.put_u32(stream);
        self.deflater.write(headers, &mut payload);
        put_control(out, frame_kind, flag(fin, FLAG_FIN), &payload);
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn put_words(out: &mut Vec<u8>, frame_kind: u16, words: &[u32]) {
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    put_control(out, frame_kind, 0, &payload);
}

fn put_control(out: &mut Vec<u8>, frame_kind: u16, flags: u8, payload: &[u8]) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(frame_kind));
    put_length(out, flags, payload.len());
    out.put_slice(payload);
}

fn put_length(out: &mut Vec<u8>, flags: u8, length: usize) {
    debug_assert!(length < 1 << 24, "frame lengths have 24 bits");
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        let headers = vec![
            ("streamtype".to_owned(), "error".to_owned()),
            ("port".to_owned(), "8080".to_owned()),
        ];
        vec![
            Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 65536)]),
            Frame::SynStream {
                stream: 1,
                headers: headers.clone(),
                fin: false,
                unidirectional: true,
            },
            Frame::SynReply { stream: 1, headers: vec![], fin: true },
            Frame::Headers { stream: 3, headers, fin: false },
            Frame::Data { stream: 1, data: Bytes::from_static(b"hello"), fin: true },
            Frame::RstStream { stream: 3, status: status::REFUSED_STREAM },
            Frame::Ping(7),
            Frame::WindowUpdate { stream: 1, delta: 4096 },
            Frame::GoAway { last_good: 1, status: 0 },
        ]
    }

    fn encode(frames: &[Frame]) -> Vec<u8> {
        let mut writer = FrameWriter::new();
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| writer.write(frame, &mut bytes));
        bytes
    }

    async fn decode(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn every_frame_survives_the_wire() {
        assert_eq!(decode(&encode(&samples())).await.unwrap(), samples());
    }

    #[tokio::test]
    async fn a_long_data_frame_comes_in_chunks() {
        let data = Bytes::from(vec![7; MAX_CHUNK * 2 + 1]);
        let frames = decode(&encode(&[Frame::Data { stream: 5, data, fin: true }])).await.unwrap();
        let shape: Vec<_> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { data, fin, .. } => (data.len(), *fin),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(shape, [(MAX_CHUNK, false), (MAX_CHUNK, false), (1, true)]);
    }

    #[tokio::test]
    async fn unknown_control_frames_are_skipped() {
        let mut bytes = Vec::new();
        put_control(&mut bytes, 10, 0, b"credential");
        bytes.extend(encode(&[Frame::Ping(1)]));
        assert_eq!(decode(&bytes).await.unwrap(), [Frame::Ping(1)]);
    }

    /// Mutated frames give frames or an error, never a panic. The generator is a seeded xorshift, so
    /// a failure repeats.
    #[tokio::test]
    async fn mutated_bytes_never_panic() {
        let clean = encode(&samples());
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = clean.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random(256) as u8),
                }
            }
            refused += usize::from(decode(&bytes).await.is_err());
        }
        assert!(refused > 1_000, "mutations must reach the error paths: {refused}");
    }
}
