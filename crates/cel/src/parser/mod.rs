//! Tokens to a tree.
//!
//! Precedence climbing over the CEL grammar; calls of macros are expanded as they are read.
//! Counterpart: cel-go's `parser`, whose messages (those of a generated parser) are kept for the
//! mistakes people make. Differs: after a mistake nothing could be guessed from, parsing stops
//! rather than reporting what follows from it.
//! Invariant: nesting, and so the depth of the tree, is bounded; any text is answered, none panics.

mod cursor;
mod literal;

use std::sync::Arc;

use crate::ast::{
    Ast, Call, Element, Entry, Expr, ExprId, Field, Kind, Literal, Select, Struct, op,
};
use crate::lexer::{Spanned, Token, tokens};
use crate::macros;
use crate::source::Issues;

use self::cursor::{
    FIRST_ARGUMENT, FIRST_ELEMENT, FIRST_ENTRY, OPERAND, OPTIONAL_OPERAND, binary, follows_operand,
    starts_operand,
};
use self::literal::literal;

/// Characters an expression may have.
const SIZE_LIMIT: usize = 100_000;
/// How deep expressions may nest, and how long a chain of operators or fields may be.
const DEPTH_LIMIT: usize = 250;
/// Nodes a tree may have, as some macros repeat their target.
const NODE_LIMIT: usize = 200_000;

/// Not usable as variables, though fine as fields.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(crate) fn parse(text: &str, features: macros::Features) -> Result<Ast, Issues> {
    let mut issues = Issues::new(text);
    let size = text.chars().count();
    if size > SIZE_LIMIT {
        let message =
            format!("expression code point size exceeds limit: size: {size}, limit {SIZE_LIMIT}");
        issues.report(None, message);
        return Err(issues);
    }
    let tokens = tokens(text, &mut issues);
    let mut parser = Parser { tokens, at: 0, depth: 0, issues, offsets: vec![None], features };
    match parser.whole() {
        Ok(root) => parser.issues.into_result(Ast { root, offsets: parser.offsets }),
        Err(Stop) => Err(parser.issues),
    }
}

/// Parsing cannot go on; the reason has been reported.
#[derive(Debug)]
pub(crate) struct Stop;

type Parsed<T = Expr> = Result<T, Stop>;

pub(crate) struct Parser<'t> {
    tokens: Vec<Spanned<'t>>,
    at: usize,
    depth: usize,
    issues: Issues,
    offsets: Vec<Option<usize>>,
    features: macros::Features,
}

// === impl Parser: nodes ===

impl Parser<'_> {
    /// A number for a new node that stands at `offset`.
    fn id(&mut self, offset: usize) -> ExprId {
        self.offsets.push(Some(offset));
        self.offsets.len() - 1
    }

    fn node(&mut self, offset: usize, kind: Kind) -> Parsed {
        if self.offsets.len() > NODE_LIMIT {
            self.report(None, format!("expression exceeds the limit of {NODE_LIMIT} nodes"));
            return Err(Stop);
        }
        Ok(Expr { id: self.id(offset), kind })
    }

    fn call(&mut self, at: usize, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Parsed {
        let expand = macros::find(function, target.is_some(), args.len(), self.features);
        if let Some(expand) = expand {
            let mut builder = macros::Builder { parser: self, offset: at };
            return expand(&mut builder, target, args);
        }
        self.plain_call(at, function, target, args)
    }

    /// A call that is no macro, or made by one.
    pub(crate) fn plain_call(
        &mut self,
        at: usize,
        function: &str,
        target: Option<Expr>,
        args: Vec<Expr>,
    ) -> Parsed {
        let call = Call { function: function.to_owned(), target, args };
        self.node(at, Kind::Call(Box::new(call)))
    }

    pub(crate) fn new_node(&mut self, at: usize, kind: Kind) -> Parsed {
        self.node(at, kind)
    }

    pub(crate) fn offset_of(&self, expr: &Expr) -> Option<usize> {
        self.offsets[expr.id]
    }

    pub(crate) fn report(&mut self, offset: impl Into<Option<usize>>, message: impl Into<String>) {
        self.issues.report(offset, message);
    }

    /// Reports and goes on with a stand-in, so that later mistakes are found as well.
    pub(crate) fn report_and_go_on(&mut self, offset: usize, message: impl Into<String>) -> Parsed {
        self.report(offset, message);
        self.node(offset, Kind::Literal(Literal::Null))
    }
}

// === impl Parser: grammar ===

impl Parser<'_> {
    fn whole(&mut self) -> Parsed {
        let expr = self.expr()?;
        let rest = self.peek();
        if rest.token != Token::End {
            // One token too many can be left out; of more nothing can be made.
            let what = if self.after() == Token::End { "extraneous" } else { "mismatched" };
            self.syntax_error(format!("{what} input '{}' expecting <EOF>", rest.text));
        }
        Ok(expr)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_LIMIT {
            self.report(None, format!("expression recursion limit exceeded: {DEPTH_LIMIT}"));
            return Err(Stop);
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// `condition ? then : otherwise`, or anything that binds tighter.
    fn expr(&mut self) -> Parsed {
        self.deeper(|p| {
            let condition = p.chain(1)?;
            let at = p.peek().offset;
            if !p.accept("?") {
                return Ok(condition);
            }
            let then = p.chain(1)?;
            p.expect(":", starts_operand)?;
            let otherwise = p.expr()?;
            p.call(at, op::CONDITIONAL, None, vec![condition, then, otherwise])
        })
    }

    /// Operands joined by operators that bind at least as tightly as `level`.
    fn chain(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        let mut length = 0;
        while let Some((function, found)) = binary(self.peek().token).filter(|(_, l)| *l >= level) {
            if found <= 2 {
                left = self.logic(left, function, found)?;
                continue;
            }
            length += 1;
            if length > DEPTH_LIMIT {
                return self.deeper_than_allowed();
            }
            let at = self.next().offset;
            let right = self.deeper(|p| p.chain(found + 1))?;
            left = self.call(at, function, None, vec![left, right])?;
        }
        Ok(left)
    }

    fn deeper_than_allowed(&mut self) -> Parsed {
        self.report(None, format!("expression recursion limit exceeded: {DEPTH_LIMIT}"));
        Err(Stop)
    }

    /// All terms of one `&&` or `||`, as a balanced tree: chains of thousands are common.
    fn logic(&mut self, first: Expr, function: &'static str, level: u8) -> Parsed {
        let mut terms = vec![first];
        let mut offsets = Vec::new();
        while binary(self.peek().token) == Some((function, level)) {
            offsets.push(self.next().offset);
            terms.push(self.deeper(|p| p.chain(level + 1))?);
        }
        let mut terms = terms.into_iter();
        self.balance(function, &mut terms, &offsets)
    }

    fn balance(
        &mut self,
        function: &str,
        terms: &mut dyn Iterator<Item = Expr>,
        offsets: &[usize],
    ) -> Parsed {
        if offsets.is_empty() {
            return Ok(terms.next().expect("one term more than operators"));
        }
        let middle = offsets.len() / 2;
        let left = self.balance(function, terms, &offsets[..middle])?;
        let right = self.balance(function, terms, &offsets[middle + 1..])?;
        self.plain_call(offsets[middle], function, None, vec![left, right])
    }

    /// Any number of one sign, of which pairs cancel out.
    fn unary(&mut self) -> Parsed {
        let first = self.peek();
        let (sign, function) = match first.token {
            Token::Symbol("!") => ("!", op::NOT),
            Token::Symbol("-") if !matches!(self.after(), Token::Int | Token::Float) => {
                ("-", op::NEGATE)
            }
            _ => return self.member(),
        };
        let mut count = 0;
        while self.accept(sign) {
            count += 1;
        }
        if sign == "-" && self.is("!") {
            self.syntax_error("no viable alternative at input '-!'".to_owned());
            return Err(Stop);
        }
        if self.peek().token == Token::End {
            self.syntax_error(format!("extraneous input '<EOF>' expecting {OPERAND}"));
            return Err(Stop);
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        self.call(first.offset, function, None, vec![operand])
    }

    /// An operand followed by any number of `.field`, `.call()` and `[index]`.
    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        let mut length = 0;
        loop {
            expr = match self.peek().token {
                Token::Symbol(".") => self.field(expr)?,
                Token::Symbol("[") => self.index(expr)?,
                _ => return Ok(expr),
            };
            length += 1;
            if length > DEPTH_LIMIT {
                return self.deeper_than_allowed();
            }
        }
    }

    fn field(&mut self, operand: Expr) -> Parsed {
        let dot = self.next().offset;
        let optional = self.accept("?");
        let name = self.peek();
        let field = self.field_name(optional)?;
        if name.token == Token::Ident && !optional && self.is("(") {
            let at = self.next().offset;
            let args = self.arguments()?;
            return self.call(at, name.text, Some(operand), args);
        }
        if optional {
            let literal = Literal::String(Arc::from(field));
            let field = self.node(name.offset, Kind::Literal(literal))?;
            return self.plain_call(dot, op::OPT_SELECT, None, vec![operand, field]);
        }
        self.node(dot, Kind::Select(Box::new(Select { operand, field, test: false })))
    }

    fn field_name(&mut self, optional: bool) -> Parsed<String> {
        let name = self.peek();
        match name.token {
            Token::Ident => {}
            Token::Quoted => {
                if !self.features.quoted_identifiers {
                    self.report(name.offset, "unsupported syntax: '`'");
                }
                self.next();
                return Ok(name.text.trim_matches('`').to_owned());
            }
            _ if optional => return self.mismatched("{IDENTIFIER, ESC_IDENTIFIER}"),
            Token::Keyword("in") => {
                // The word is taken for the operator after all.
                self.no_field(".in");
                self.next();
                return if self.peek().token == Token::End {
                    self.mismatched(OPERAND)
                } else {
                    Err(Stop)
                };
            }
            Token::Keyword(_) => return self.mismatched("IDENTIFIER"),
            Token::End => {
                self.no_field(".");
                return Err(Stop);
            }
            _ => {
                self.no_field(&format!(".{}", name.text));
                return Err(Stop);
            }
        }
        self.next();
        Ok(name.text.to_owned())
    }

    fn no_field(&mut self, input: &str) {
        self.syntax_error(format!("no viable alternative at input '{input}'"));
    }

    fn index(&mut self, operand: Expr) -> Parsed {
        let at = self.next().offset;
        let optional = self.accept("?");
        if !starts_operand(self.peek().token) {
            return self.mismatched(if optional { OPERAND } else { OPTIONAL_OPERAND });
        }
        let index = self.expr()?;
        self.expect("]", follows_operand)?;
        let function = if optional { op::OPT_INDEX } else { op::INDEX };
        self.call(at, function, None, vec![operand, index])
    }

    /// What stands between the parentheses of a call, the closing one included.
    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(")") {
            return Ok(args);
        }
        loop {
            let missing = args.is_empty() && !starts_operand(self.peek().token);
            args.push(if missing { self.missing_operand(FIRST_ARGUMENT)? } else { self.expr()? });
            if !self.accept(",") {
                self.expect(")", follows_operand)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let start = self.peek();
        match start.token {
            Token::Symbol("(") => {
                self.next();
                let inner = self.expr()?;
                self.expect(")", follows_operand)?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list(),
            Token::Symbol("{") => self.map(),
            Token::Symbol(".") if self.after() == Token::Ident => {
                self.next();
                self.name(".")
            }
            Token::Ident => self.name(""),
            Token::Symbol("-") if matches!(self.after(), Token::Int | Token::Float) => {
                self.next();
                self.literal(start.offset, "-")
            }
            Token::Keyword("in") | Token::Symbol(_) | Token::Quoted | Token::End => {
                self.missing_operand(OPERAND)
            }
            _ => self.literal(start.offset, ""),
        }
    }

    fn missing_operand(&mut self, expected: &str) -> Parsed {
        let found = self.peek();
        if found.token != Token::End && starts_operand(self.after()) {
            let text = found.text;
            self.syntax_error(format!("extraneous input '{text}' expecting {expected}"));
            self.next();
            return self.deeper(Self::member);
        }
        if binary(found.token).is_some_and(|(_, level)| level > 2) {
            // The operator is taken as if its left side were there.
            self.syntax_error(format!("mismatched input '{}' expecting {expected}", found.text));
            return self.node(found.offset, Kind::Literal(Literal::Null));
        }
        self.mismatched(expected)
    }

    /// A variable, the call of a function, or the making of an object.
    fn name(&mut self, dot: &str) -> Parsed {
        let start = self.next();
        if self.is("{") || self.is_struct_name() {
            return self.object(dot, start);
        }
        // A leading dot belongs to the name but the name is where things are pointed out.
        if RESERVED.contains(&start.text) {
            let offset = start.offset - dot.len();
            let message = format!("reserved identifier: {}", start.text);
            if self.is("(") {
                self.next();
                self.arguments()?;
            }
            return self.report_and_go_on(offset, message);
        }
        let name = format!("{dot}{}", start.text);
        if self.is("(") {
            let at = self.next().offset;
            let args = self.arguments()?;
            return self.call(at, &name, None, args);
        }
        self.node(start.offset, Kind::Ident(name))
    }

    /// Whether the dots and names ahead end in `{`: then they name a type.
    fn is_struct_name(&self) -> bool {
        let mut at = self.at;
        let token = |at: usize| self.tokens.get(at).map_or(Token::End, |t| t.token);
        while token(at) == Token::Symbol(".") && token(at + 1) == Token::Ident {
            at += 2;
        }
        at > self.at && token(at) == Token::Symbol("{")
    }

    fn object(&mut self, dot: &str, first: Spanned<'_>) -> Parsed {
        let mut name = format!("{dot}{}", first.text);
        while self.accept(".") {
            name.push('.');
            name.push_str(self.next().text);
        }
        let at = self.next().offset;
        let id = self.id(at);
        let mut fields = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let field = self.peek();
            if !matches!(field.token, Token::Ident | Token::Quoted) {
                return self.mismatched("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}");
            }
            let field = self.field_name(optional)?;
            let colon = self.expect(":", starts_operand)?;
            let value = self.expr()?;
            fields.push(Field { id: self.id(colon), name: field, value, optional });
            if !self.accept(",") {
                self.expect_close("}")?;
                break;
            }
        }
        Ok(Expr { id, kind: Kind::Struct(Struct { name, fields }) })
    }

    fn list(&mut self) -> Parsed {
        let at = self.next().offset;
        let mut elements = Vec::new();
        if self.peek().token == Token::End {
            return self.mismatched(FIRST_ELEMENT);
        }
        while !self.accept("]") {
            let optional = self.accept("?");
            // A comma may stand alone, or after the last element.
            if elements.is_empty() && self.accept(",") {
                self.expect("]", |_| false)?;
                break;
            }
            if self.is(",") {
                return self.mismatched("']'");
            }
            elements.push(Element { value: self.expr()?, optional });
            if !self.accept(",") {
                self.expect_close("]")?;
                break;
            }
        }
        self.node(at, Kind::List(elements))
    }

    fn map(&mut self) -> Parsed {
        let at = self.next().offset;
        let mut entries = Vec::new();
        if self.peek().token == Token::End {
            return self.mismatched(FIRST_ENTRY);
        }
        while !self.accept("}") {
            let alone = entries.is_empty() && self.accept(",");
            if alone || self.peek().token == Token::End && !entries.is_empty() {
                self.expect("}", follows_operand)?;
                break;
            }
            let optional = self.accept("?");
            let key = self.expr()?;
            self.expect(":", starts_operand)?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.accept(",") {
                self.expect_close("}")?;
                break;
            }
        }
        self.node(at, Kind::Map(entries))
    }

    fn literal(&mut self, at: usize, sign: &str) -> Parsed {
        let Spanned { token, text, .. } = self.next();
        match literal(token, text, sign) {
            Ok(literal) => self.node(at, Kind::Literal(literal)),
            Err(message) => self.report_and_go_on(at, message),
        }
    }
}
