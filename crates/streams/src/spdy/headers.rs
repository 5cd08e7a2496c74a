//! SPDY/3 header blocks: name-value lists, compressed with one zlib stream per direction.
//!
//! Compressed bytes in, a list of lower-case names and their values out, and back. The dictionary both
//! sides prime zlib with is a constant of the specification (draft 3, section 2.6.10.1).
//! Counterpart: `spdy.Framer`'s header code.
//!
//! Invariant: every block of a connection passes through the codec, in order, even when its frame is
//! ignored: zlib's window spans blocks. A block inflates to at most `MAX_INFLATED` bytes.

use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::ProtocolError;

/// Generous: the headers of these protocols take about a hundred bytes.
const MAX_INFLATED: usize = 64 * 1024;
const MAX_HEADERS: u32 = 256;

pub(crate) type Headers = Vec<(String, String)>;

/// The value of a header, whose name is matched in the lower case of the wire.
pub(crate) fn value_of<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

pub(crate) struct HeaderInflater(Decompress);

pub(crate) struct HeaderDeflater(Compress);

// === impl HeaderInflater ===

impl HeaderInflater {
    pub(crate) fn new() -> Self {
        HeaderInflater(Decompress::new(true))
    }

    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                plain.reserve(plain.capacity());
            }
            let (input, output) = (self.0.total_in(), plain.len());
            let inflated = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.0.total_in() - input) as usize..];
            match inflated {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| ProtocolError("unknown header dictionary"))?;
                    continue;
                }
                Err(_) => return Err(ProtocolError("corrupt header block")),
                // A connection's zlib stream has no end.
                Ok(Status::StreamEnd) => return Err(ProtocolError("header compression ended")),
                Ok(_) => {}
            }
            if plain.len() > MAX_INFLATED {
                return Err(ProtocolError("header block too large"));
            }
            let full = plain.len() == plain.capacity();
            let stuck = plain.len() == output && self.0.total_in() == input;
            if !full && (block.is_empty() || stuck) {
                return if block.is_empty() {
                    Ok(plain)
                } else {
                    Err(ProtocolError("corrupt header block"))
                };
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, ProtocolError> {
    const SHORT: ProtocolError = ProtocolError("header block too short");
    let count = plain.try_get_u32().map_err(|_| SHORT)?;
    if count > MAX_HEADERS {
        return Err(ProtocolError("too many headers"));
    }
    let mut text = || -> Result<String, ProtocolError> {
        let length = plain.try_get_u32().map_err(|_| SHORT)? as usize;
        if plain.len() < length {
            return Err(SHORT);
        }
        let (text, rest) = plain.split_at(length);
        plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| ProtocolError("header is not utf-8"))
    };
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

// === impl HeaderDeflater ===

impl HeaderDeflater {
    pub(crate) fn new() -> Self {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        HeaderDeflater(compress)
    }

    pub(crate) fn write(&mut self, headers: &Headers, block: &mut Vec<u8>) {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut rest = plain.as_slice();
        loop {
            block.reserve(rest.len() / 2 + 64);
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, block, FlushCompress::Sync)
                .expect("compressing in memory cannot fail");
            rest = &rest[(self.0.total_in() - before) as usize..];
            // Room left over means the flush is complete.
            if rest.is_empty() && block.len() < block.capacity() {
                return;
            }
        }
    }
}

/// Each word preceded by its length, then the tail.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(TAIL.as_bytes());
    dictionary
});

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TAIL: &str = "\
100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 No\
n-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Fe\
b Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunke\
d,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/\
javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionary_is_the_published_one() {
        // The id every SPDY/3 zlib stream names: the Adler-32 sum of the dictionary.
        let mut compress = Compress::new(Compression::best(), true);
        assert_eq!(compress.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
        assert_eq!(DICTIONARY.len(), 1423);
    }

    #[test]
    fn blocks_of_one_connection_share_a_window() {
        let (mut deflater, mut inflater) = (HeaderDeflater::new(), HeaderInflater::new());
        let mut sizes = Vec::new();
        for id in 0..3 {
            let headers = vec![
                ("streamType".to_owned(), "data".to_owned()),
                ("requestID".to_owned(), id.to_string()),
            ];
            let mut block = Vec::new();
            deflater.write(&headers, &mut block);
            let read = inflater.read(&block).unwrap();
            assert_eq!(value_of(&read, "streamtype"), Some("data"));
            assert_eq!(value_of(&read, "requestID"), Some(id.to_string().as_str()));
            sizes.push(block.len());
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused() {
        let mut deflater = HeaderDeflater::new();
        let mut block = Vec::new();
        deflater.write(&vec![("x".to_owned(), "a".repeat(MAX_INFLATED * 4))], &mut block);
        assert!(block.len() < 4096);
        let error = HeaderInflater::new().read(&block).unwrap_err();
        assert_eq!(error.to_string(), "header block too large");
    }
}
