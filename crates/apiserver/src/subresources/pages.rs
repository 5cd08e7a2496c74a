//! A web page on its way through a proxy, with its links led back through it.
//!
//! Pieces of HTML as they arrive -> the same bytes, but for the attributes that hold URLs. Counterpart: `rewriteHTML` of
//! `apimachinery/pkg/util/proxy/transport.go`. Differs from upstream: a tag keeps its spelling, and a page is not held in memory
//! whole: only a tag that is not yet complete is.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use http_body::Frame;
use http_body_util::BodyExt;

use super::links::Links;
use crate::reply::{Body, BoxError};

/// Which attributes of which tags are URLs.
const URLS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW: &[&str] =
    &["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// What is longer is no tag, but somebody's data with a `<` in it.
const LONGEST_TAG: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    Gzip,
}

/// The page, with its links led through the proxy.
pub fn rewritten(body: Body, links: Links, encoding: Encoding) -> Body {
    let page = Page::new(links);
    let filter = match encoding {
        Encoding::Plain => Filter::Plain(page),
        Encoding::Gzip => Filter::Gzip {
            page,
            unpack: MultiGzDecoder::new(Vec::new()),
            pack: GzEncoder::new(Vec::new(), Compression::fast()),
        },
    };
    Rewritten { body, filter: Some(filter) }.boxed_unsync()
}

struct Rewritten {
    body: Body,
    /// None once the page has ended.
    filter: Option<Filter>,
}

#[expect(clippy::large_enum_variant, reason = "one for a page")]
enum Filter {
    Plain(Page),
    Gzip { page: Page, unpack: MultiGzDecoder<Vec<u8>>, pack: GzEncoder<Vec<u8>> },
}

struct Page {
    links: Links,
    /// What may be the beginning of something.
    held: Vec<u8>,
    /// What ends the stretch that is passed unread.
    until: Option<String>,
}

/// Where in the page something stands.
type Span = std::ops::Range<usize>;

struct Tag {
    name: String,
    /// Names and values.
    attributes: Vec<(Span, Span)>,
    end: usize,
}

// === impl Rewritten ===

impl http_body::Body for Rewritten {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Rewritten { body, filter } = &mut *self;
        loop {
            let Some(rewriting) = filter else { return Poll::Ready(None) };
            let out = match ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => rewriting.feed(&piece),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => filter.take().expect("looked at above").finish(),
            };
            match out {
                Ok(out) if out.is_empty() => {}
                out => {
                    return Poll::Ready(Some(
                        out.map(|out| Frame::data(out.into())).map_err(Into::into),
                    ));
                }
            }
        }
    }
}

// === impl Filter ===

impl Filter {
    fn feed(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Filter::Plain(page) => Ok(page.feed(piece)),
            Filter::Gzip { page, unpack, pack } => {
                unpack.write_all(piece)?;
                unpack.flush()?;
                pack.write_all(&page.feed(&std::mem::take(unpack.get_mut())))?;
                pack.flush()?;
                Ok(std::mem::take(pack.get_mut()))
            }
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Filter::Plain(mut page) => Ok(page.finish()),
            Filter::Gzip { mut page, mut unpack, mut pack } => {
                unpack.try_finish()?;
                pack.write_all(&page.feed(unpack.get_ref()))?;
                pack.write_all(&page.finish())?;
                pack.finish()
            }
        }
    }
}

// === impl Page ===

impl Page {
    fn new(links: Links) -> Page {
        Page { links, held: Vec::new(), until: None }
    }

    /// What can be told of the page with this piece of it.
    fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while let Some(read) = self.step(at, &mut out) {
            at += read;
        }
        self.held.drain(..at);
        out
    }

    /// The page has ended: what was held is all there is of it.
    fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Hands on the next stretch and says how long it is; none if more of the page must come first.
    fn step(&mut self, at: usize, out: &mut Vec<u8>) -> Option<usize> {
        let rest = &self.held[at..];
        if let Some(end) = &self.until {
            let found = find(rest, end.as_bytes());
            let read = found.unwrap_or((rest.len() + 1).saturating_sub(end.len()));
            out.extend_from_slice(&rest[..read]);
            if found.is_some() {
                self.until = None;
            }
            return (found.is_some() || read > 0).then_some(read);
        }
        let text = memchr::memchr(b'<', rest).unwrap_or(rest.len());
        if text > 0 {
            out.extend_from_slice(&rest[..text]);
            return Some(text);
        }
        self.markup(at, out)
    }

    /// What begins with `<`.
    fn markup(&mut self, at: usize, out: &mut Vec<u8>) -> Option<usize> {
        let rest = &self.held[at..];
        if rest.len() < 4 && b"<!--".starts_with(rest) {
            return None;
        }
        if rest.starts_with(b"<!--") {
            self.until = Some("-->".to_owned());
        } else if rest[1].is_ascii_alphabetic() {
            match Tag::read(rest) {
                Some(tag) => return Some(self.tag(at, tag, out)),
                None if rest.len() < LONGEST_TAG => return None,
                None => {}
            }
        }
        out.push(b'<');
        Some(1)
    }

    fn tag(&mut self, at: usize, tag: Tag, out: &mut Vec<u8>) -> usize {
        let text = &self.held[at..at + tag.end];
        let urls = URLS.iter().find(|(name, _)| *name == tag.name).map_or(&[][..], |urls| urls.1);
        let mut copied = 0;
        for (name, value) in &tag.attributes {
            let name = text[name.clone()].to_ascii_lowercase();
            if !urls.iter().any(|url| url.as_bytes() == name) {
                continue;
            }
            let url = std::str::from_utf8(&text[value.clone()]).ok();
            if let Some(led) = url.and_then(|url| self.links.through(url)) {
                out.extend_from_slice(&text[copied..value.start]);
                out.extend_from_slice(led.as_bytes());
                copied = value.end;
            }
        }
        out.extend_from_slice(&text[copied..]);
        if RAW.contains(&tag.name.as_str()) {
            self.until = Some(format!("</{}", tag.name));
        }
        tag.end
    }
}

// === impl Tag ===

impl Tag {
    /// The tag that `text` begins with, if all of it is there.
    fn read(text: &[u8]) -> Option<Tag> {
        let name = run(text, 1, |byte| !byte.is_ascii_whitespace() && !b"/>".contains(&byte))?;
        let mut tag = Tag {
            name: String::from_utf8_lossy(&text[1..name]).to_ascii_lowercase(),
            attributes: Vec::new(),
            end: 0,
        };
        let mut at = name;
        loop {
            at = run(text, at, |byte| byte.is_ascii_whitespace() || byte == b'/')?;
            if text[at] == b'>' {
                tag.end = at + 1;
                return Some(tag);
            }
            let (name, value) = attribute(text, at)?;
            at = value.end + usize::from(matches!(text[value.end], b'"' | b'\''));
            tag.attributes.push((name, value));
        }
    }
}

/// Name and value of the attribute that begins at `at`; one without a value has an empty one.
fn attribute(text: &[u8], at: usize) -> Option<(Span, Span)> {
    let space = |byte: u8| byte.is_ascii_whitespace();
    // An equals sign may begin a name, but not end up within one.
    let end = run(text, at + 1, |byte| !space(byte) && !b"=/>".contains(&byte))?;
    let equals = run(text, end, space)?;
    if text[equals] != b'=' {
        return Some((at..end, end..end));
    }
    let start = run(text, equals + 1, space)?;
    let value = match text[start] {
        quote @ (b'"' | b'\'') => start + 1..run(text, start + 1, |byte| byte != quote)?,
        _ => start..run(text, start, |byte| !space(byte) && byte != b'>')?,
    };
    Some((at..end, value))
}

/// Where the run of such bytes ends; none if the text ends first.
fn run(text: &[u8], from: usize, such: impl Fn(u8) -> bool) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.iter().position(|byte| !such(*byte)).map(|length| from + length)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window.eq_ignore_ascii_case(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page::new(Links::new("/p", "10.0.0.7:80".to_owned(), String::new()))
    }

    /// Whole, and byte by byte.
    fn check(html: &str, expected: &str) {
        let whole = |page: &mut Page| [page.feed(html.as_bytes()), page.finish()].concat();
        assert_eq!(String::from_utf8_lossy(&whole(&mut page())), expected);
        let mut page = page();
        let mut got: Vec<u8> = html.bytes().flat_map(|byte| page.feed(&[byte])).collect();
        got.extend(page.finish());
        assert_eq!(String::from_utf8_lossy(&got), expected, "byte by byte");
    }

    #[test]
    fn urls_are_led_through_the_proxy_and_nothing_else() {
        check(r#"<a href="/x">test</a>"#, r#"<a href="/p/x">test</a>"#);
        check("<A HREF='/x' title='/y'>", "<A HREF='/p/x' title='/y'>");
        check("<img src=/x.png>", "<img src=/p/x.png>");
        check(r#"<img alt  =  "a > b"  src = "/x"/>"#, r#"<img alt  =  "a > b"  src = "/p/x"/>"#);
        check(r#"<link rel="stylesheet" href="x.css">"#, r#"<link rel="stylesheet" href="x.css">"#);
        check(
            r#"<p href="/x"><input disabled formaction="/y">"#,
            r#"<p href="/x"><input disabled formaction="/p/y">"#,
        );
    }

    #[test]
    fn a_packed_page_is_rewritten_too() {
        let packed = |html: &str| {
            let mut pack = GzEncoder::new(Vec::new(), Compression::fast());
            pack.write_all(html.as_bytes()).and_then(|()| pack.finish()).expect("packed")
        };
        let mut filter = Filter::Gzip {
            page: page(),
            unpack: MultiGzDecoder::new(Vec::new()),
            pack: GzEncoder::new(Vec::new(), Compression::fast()),
        };
        let mut out = Vec::new();
        for piece in packed("<a href=/x>test</a>").chunks(7) {
            out.extend(filter.feed(piece).expect("read"));
        }
        out.extend(filter.finish().expect("read"));
        let mut unpack = MultiGzDecoder::new(Vec::new());
        unpack.write_all(&out).expect("packed");
        assert_eq!(unpack.finish().expect("packed"), b"<a href=/p/x>test</a>");
    }

    #[test]
    fn scripts_and_comments_are_not_read() {
        for html in [
            r#"<script>document.write('<a href="/x">')</script>"#,
            r#"<!-- <a href="/x"> -->"#,
            r#"<!---><a href="y">"#,
            r#"<style>a::before { content: '<a href="/x">' }</STYLE>"#,
            "if a < b and c<d or e <",
            "<a href=\"/never ends",
            "<!DOCTYPE html><",
        ] {
            check(html, html);
        }
        check(
            r#"<script src="/x.js"></script><a href="/x">"#,
            r#"<script src="/p/x.js"></script><a href="/p/x">"#,
        );
    }

    #[test]
    fn a_tag_that_never_ends_is_not_held_forever() {
        let mut page = page();
        let mut seen = page.feed(b"<a title=\"").len();
        for _ in 0..2 * LONGEST_TAG / 1024 {
            seen += page.feed(&[b'x'; 1024]).len();
        }
        assert!(seen > LONGEST_TAG, "{seen}");
    }
}
