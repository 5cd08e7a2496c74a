//! The parser's view of tokens: what is next, what has to be, and what is said when it is not.
//!
//! Messages are those of the generated parser upstream has; a token too many or too few is
//! reported and repaired where that parser would. Invariant: never moves past the last token.

use super::{Parsed, Parser, Stop};
use crate::ast::op;
use crate::lexer::{Spanned, Token};

pub(super) const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, \
                       NUM_UINT, STRING, BYTES, IDENTIFIER}";
pub(super) const FIRST_ARGUMENT: &str = "{'[', '{', '(', ')', '.', '-', '!', 'true', 'false', 'null', \
                              NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
pub(super) const OPTIONAL_OPERAND: &str = "{'[', '{', '(', '.', '-', '!', '?', 'true', 'false', 'null', \
                                NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

pub(super) const FIRST_ELEMENT: &str = "{'[', ']', '{', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', \
                             NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
pub(super) const FIRST_ENTRY: &str = "{'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', \
                           NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Binary operators: symbol, function, and how tightly they bind.
const BINARY: [(&str, &str, u8); 14] = [
    ("||", op::OR, 1),
    ("&&", op::AND, 2),
    ("<", "_<_", 3),
    ("<=", "_<=_", 3),
    (">", "_>_", 3),
    (">=", "_>=_", 3),
    ("==", op::EQUALS, 3),
    ("!=", op::NOT_EQUALS, 3),
    ("in", "@in", 3),
    ("+", op::ADD, 4),
    ("-", "_-_", 4),
    ("*", "_*_", 5),
    ("/", "_/_", 5),
    ("%", "_%_", 5),
];

// === impl Parser ===

impl<'t> Parser<'t> {
    pub(super) fn peek(&self) -> Spanned<'t> {
        self.tokens[self.at]
    }

    pub(super) fn after(&self) -> Token {
        self.tokens.get(self.at + 1).map_or(Token::End, |next| next.token)
    }

    pub(super) fn next(&mut self) -> Spanned<'t> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn is(&self, symbol: &str) -> bool {
        matches!(self.peek().token, Token::Symbol(s) if s == symbol)
    }

    pub(super) fn accept(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn syntax_error(&mut self, message: String) {
        let offset = self.peek().offset;
        self.report(offset, format!("Syntax error: {message}"));
    }

    pub(super) fn mismatched<T>(&mut self, expected: &str) -> Parsed<T> {
        self.syntax_error(format!("mismatched input '{}' expecting {expected}", self.peek().text));
        Err(Stop)
    }

    /// Takes `symbol`; a token too many before it, or its absence, is reported and repaired.
    pub(super) fn expect(
        &mut self,
        symbol: &'static str,
        follows: fn(Token) -> bool,
    ) -> Parsed<usize> {
        let offset = self.peek().offset;
        if self.accept(symbol) {
            return Ok(offset);
        }
        let text = self.peek().text;
        if self.after() == Token::Symbol(symbol) {
            self.syntax_error(format!("extraneous input '{text}' expecting '{symbol}'"));
            self.next();
            self.next();
            return Ok(offset);
        }
        if follows(self.peek().token) {
            self.syntax_error(format!("missing '{symbol}' at '{text}'"));
            return Ok(offset);
        }
        self.mismatched(&format!("'{symbol}'"))
    }

    /// Closes a list of things separated by commas.
    pub(super) fn expect_close(&mut self, symbol: &'static str) -> Parsed<()> {
        if self.accept(symbol) {
            return Ok(());
        }
        if self.after() == Token::Symbol(symbol) {
            let text = self.peek().text;
            self.syntax_error(format!("extraneous input '{text}' expecting {{'{symbol}', ','}}"));
            self.next();
            self.next();
            return Ok(());
        }
        self.mismatched(&format!("{{'{symbol}', ','}}"))
    }
}

/// Whether an operand can begin with the token.
pub(super) fn starts_operand(token: Token) -> bool {
    match token {
        Token::Symbol(s) => matches!(s, "[" | "{" | "(" | "." | "-" | "!"),
        Token::Keyword(k) => k != "in",
        Token::Quoted | Token::End => false,
        _ => true,
    }
}

/// Whether the token can stand after a complete operand.
pub(super) fn follows_operand(token: Token) -> bool {
    match token {
        Token::Symbol(s) => !matches!(s, "{" | "(" | "!"),
        Token::Keyword(k) => k == "in",
        token => token == Token::End,
    }
}

pub(super) fn binary(token: Token) -> Option<(&'static str, u8)> {
    let (Token::Symbol(text) | Token::Keyword(text)) = token else { return None };
    BINARY
        .iter()
        .find(|(symbol, ..)| *symbol == text)
        .map(|(_, function, level)| (*function, *level))
}
