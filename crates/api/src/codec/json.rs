//! JSON text -> [`Node`], with the messages of Go's scanner.
//!
//! Clients show these messages to people and tests compare them, so the parser follows the states
//! of `encoding/json` rather than those of a Rust library. As there, broken UTF-8 and lone
//! surrogates become U+FFFD. Invariant: no input panics; nesting is bounded by [`MAX_DEPTH`], which
//! is also what `serde_json` reads back later from the store.

use super::node::Node;

/// Go allows 10,000 levels. Fewer here, so that what is accepted can always be read back.
pub const MAX_DEPTH: usize = 120;

/// A fault of syntax, in Go's words.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SyntaxError {
    #[error("unexpected end of JSON input")]
    End,
    #[error("invalid character {found} {context}", found = quoted(*.0), context = .1)]
    Character(u8, &'static str),
    #[error("exceeded max depth")]
    Depth,
}

/// Parses one JSON text.
pub fn parse(text: &[u8]) -> Result<Node, SyntaxError> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    match parser.next_token() {
        None => Ok(node),
        Some(byte) => Err(SyntaxError::Character(byte, "after top-level value")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

// === impl Parser ===

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(SyntaxError::Depth);
        }
        match self.next_token().ok_or(SyntaxError::End)? {
            b'{' => self.map(depth),
            b'[' => self.list(depth),
            b'"' => Ok(Node::String(self.string()?)),
            b'-' | b'0'..=b'9' => Ok(Node::Number(self.number()?)),
            b't' => self.literal("true", LITERAL_TRUE).map(|()| Node::Bool(true)),
            b'f' => self.literal("false", LITERAL_FALSE).map(|()| Node::Bool(false)),
            b'n' => self.literal("null", LITERAL_NULL).map(|()| Node::Null),
            byte => Err(SyntaxError::Character(byte, "looking for beginning of value")),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        const KEY: &str = "looking for beginning of object key string";
        self.at += 1;
        let mut entries = Vec::new();
        if self.next_token() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Map(entries));
        }
        loop {
            self.expect(b'"', KEY)?;
            let name = self.string()?;
            self.expect(b':', "after object key")?;
            self.at += 1;
            entries.push((name, self.value(depth + 1)?));
            if self.separator(b'}', "after object key:value pair")? {
                return Ok(Node::Map(entries));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        if self.next_token() == Some(b']') {
            self.at += 1;
            return Ok(Node::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.separator(b']', "after array element")? {
                return Ok(Node::List(items));
            }
        }
    }

    /// Reads the comma (false) or the closing bracket (true) after an element.
    fn separator(&mut self, close: u8, context: &'static str) -> Result<bool, SyntaxError> {
        let byte = self.next_token().ok_or(SyntaxError::End)?;
        if byte != close && byte != b',' {
            return Err(SyntaxError::Character(byte, context));
        }
        self.at += 1;
        Ok(byte == close)
    }

    fn expect(&mut self, wanted: u8, context: &'static str) -> Result<(), SyntaxError> {
        match self.next_token() {
            Some(byte) if byte == wanted => Ok(()),
            Some(byte) => Err(SyntaxError::Character(byte, context)),
            None => Err(SyntaxError::End),
        }
    }

    fn literal(
        &mut self,
        word: &str,
        contexts: &'static [&'static str],
    ) -> Result<(), SyntaxError> {
        for (expected, context) in word.bytes().zip(contexts) {
            let byte = self.byte()?;
            if byte != expected {
                return Err(SyntaxError::Character(byte, context));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.skip(b"-");
        match self.peek().ok_or(SyntaxError::End)? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            byte => return Err(SyntaxError::Character(byte, "in numeric literal")),
        }
        if self.skip(b".") {
            self.some_digits("after decimal point in numeric literal")?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(String::from_utf8_lossy(&self.text[start..self.at]).into_owned())
    }

    fn some_digits(&mut self, context: &'static str) -> Result<(), SyntaxError> {
        match self.peek().ok_or(SyntaxError::End)? {
            b'0'..=b'9' => self.digits(),
            byte => return Err(SyntaxError::Character(byte, context)),
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// A string, from its opening quote to behind the closing one.
    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let start = self.at;
            while matches!(self.peek(), Some(byte) if byte >= 0x20 && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            out.extend_from_slice(&self.text[start..self.at]);
            match self.byte()? {
                b'"' => return Ok(into_text(out)),
                b'\\' => self.escape(&mut out)?,
                byte => return Err(SyntaxError::Character(byte, "in string literal")),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let byte = match self.byte()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.unicode()?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            byte => return Err(SyntaxError::Character(byte, "in string escape code")),
        };
        out.push(byte);
        Ok(())
    }

    /// The character of a `\u` escape, of which a surrogate needs its partner right behind.
    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let high = self.hex4()?;
        if let Some(character) = char::from_u32(high) {
            return Ok(character);
        }
        let behind = self.at;
        if high < 0xdc00 && self.text[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = behind;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.byte()?;
            let digit = char::from(byte).to_digit(16);
            let context = "in \\u hexadecimal character escape";
            code = code * 16 + digit.ok_or(SyntaxError::Character(byte, context))?;
        }
        Ok(code)
    }

    fn next_token(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn skip(&mut self, any: &[u8]) -> bool {
        let found = self.peek().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(found);
        found
    }

    fn byte(&mut self) -> Result<u8, SyntaxError> {
        let byte = self.peek().ok_or(SyntaxError::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

const LITERAL_TRUE: &[&str] = &[
    "",
    "in literal true (expecting 'r')",
    "in literal true (expecting 'u')",
    "in literal true (expecting 'e')",
];
const LITERAL_FALSE: &[&str] = &[
    "",
    "in literal false (expecting 'a')",
    "in literal false (expecting 'l')",
    "in literal false (expecting 's')",
    "in literal false (expecting 'e')",
];
const LITERAL_NULL: &[&str] = &[
    "",
    "in literal null (expecting 'u')",
    "in literal null (expecting 'l')",
    "in literal null (expecting 'l')",
];

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A byte as Go's scanner quotes it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0x9f | 0xad => format!("'\\u00{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation;

    fn fault(text: &str) -> String {
        parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn faults_read_as_go_prints_them() {
        for (text, message) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            (r#"{"a":{"b":"t""#, "unexpected end of JSON input"),
            ("{x", "invalid character 'x' looking for beginning of object key string"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("{} x", "invalid character 'x' after top-level value"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.e", "invalid character 'e' after decimal point in numeric literal"),
        ] {
            assert_eq!(fault(text), message, "{text}");
        }
        assert_eq!(fault(&"[".repeat(500)), "exceeded max depth");
    }

    #[test]
    fn escapes_and_broken_text_are_read_as_go_reads_them() {
        let text = |source: &[u8]| match parse(source) {
            Ok(Node::String(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(br#""\u00e9\ud83d\ude00\/""#), "é😀/");
        assert_eq!(text(br#""\ud83dx""#), "\u{fffd}x");
        assert_eq!(text(b"\"\xff\""), "\u{fffd}");
    }

    #[test]
    fn order_repeats_and_spelling_are_kept() {
        let node = parse(br#"{"b":2.0,"a":1,"b":1e3}"#).expect("valid");
        let Node::Map(entries) = &node else { panic!("a map") };
        assert_eq!(entries[0], ("b".into(), Node::Number("2.0".into())));
        assert_eq!(node.into_value(), serde_json::json!({"a": 1, "b": 1000.0}));
    }

    #[test]
    fn damaged_texts_never_panic() {
        let seed = br#"{"a":[1,-2.5e3,"x\u00e9\ud83d\ude00",true,null],"b":{"c":{}}}"#;
        mutation::each(seed, 20_000, |bytes| {
            if let Ok(node) = parse(bytes) {
                let text = serde_json::to_vec(&node.into_value()).expect("a value is JSON");
                parse(&text).expect("what was read can be read again");
            }
        });
    }
}
