//! Tokens of literals to what they stand for.

use std::sync::Arc;

use crate::ast::Literal;
use crate::lexer::{Token, unescape};

/// The literal, or what is wrong with it. A sign before a number belongs to it, so that the
/// smallest integer can be written.
pub(super) fn literal(token: Token, text: &str, sign: &str) -> Result<Literal, &'static str> {
    Ok(match token {
        Token::Keyword("true") => Literal::Bool(true),
        Token::Keyword("false") => Literal::Bool(false),
        Token::Keyword(_) => Literal::Null,
        Token::Int => {
            let (digits, radix) = radix(text);
            let number = i64::from_str_radix(&format!("{sign}{digits}"), radix);
            Literal::Int(number.map_err(|_| "invalid int literal")?)
        }
        Token::Uint => {
            let (digits, radix) = radix(text.trim_end_matches(['u', 'U']));
            Literal::Uint(u64::from_str_radix(digits, radix).map_err(|_| "invalid uint literal")?)
        }
        Token::Float => {
            let number: f64 =
                format!("{sign}{text}").parse().map_err(|_| "invalid double literal")?;
            Literal::Double(Some(number).filter(|n| n.is_finite()).ok_or("invalid double literal")?)
        }
        Token::Bytes => Literal::Bytes(Arc::from(unescape(text, true)?)),
        _ => {
            let text = String::from_utf8(unescape(text, false)?);
            Literal::String(Arc::from(text.map_err(|_| "unable to unescape string")?))
        }
    })
}

fn radix(digits: &str) -> (&str, u32) {
    digits.strip_prefix("0x").map_or((digits, 10), |hex| (hex, 16))
}
