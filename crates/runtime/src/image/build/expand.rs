//! Variables in instructions: `$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME:+word}`, quotes, escapes.
//!
//! Counterpart: BuildKit's `frontend/dockerfile/shell`. Single quotes keep what they hold; a name
//! nobody set is empty.

/// Expands `text`, and takes quotes and escapes away.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    Expander { rest: text.chars().collect(), lookup }.until(None)
}

/// Expands variables only: quotes and escapes belong to the text.
pub fn expand_text(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expander = Expander { rest: text.chars().collect(), lookup };
    let mut out = String::new();
    while let Some(c) = expander.rest.pop_front() {
        match c {
            '$' => out.push_str(&expander.variable()?),
            '\\' => {
                out.push(c);
                out.extend(expander.rest.pop_front());
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

struct Expander<'a> {
    rest: std::collections::VecDeque<char>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Expander<'_> {
    /// Up to `end`, which is taken, or to the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        let mut double = false;
        while let Some(c) = self.rest.pop_front() {
            match c {
                _ if Some(c) == end && !double => return Ok(out),
                '\\' => self.escaped(double, &mut out),
                '"' => double = !double,
                '\'' if !double => loop {
                    match self.rest.pop_front() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err("a single quote has no end".into()),
                    }
                },
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
        }
        match (end, double) {
            (Some(end), _) => Err(format!("{end:?} is missing")),
            (None, true) => Err("a double quote has no end".into()),
            (None, false) => Ok(out),
        }
    }

    /// Within double quotes a backslash keeps its meaning before `"`, `$` and itself only.
    fn escaped(&mut self, double: bool, out: &mut String) {
        match self.rest.pop_front() {
            Some(c) if double && !matches!(c, '"' | '$' | '\\') => out.extend(['\\', c]),
            Some(c) => out.push(c),
            None => out.push('\\'),
        }
    }

    fn variable(&mut self) -> Result<String, String> {
        if self.rest.front() != Some(&'{') {
            let name = self.name();
            return Ok(match name.is_empty() {
                true => "$".to_owned(),
                false => (self.lookup)(&name).unwrap_or_default(),
            });
        }
        self.rest.pop_front();
        let name = self.name();
        let value = (self.lookup)(&name);
        let modifier = match self.rest.pop_front() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => {
                self.rest.pop_front().filter(|c| matches!(c, '-' | '+')).map(|c| (c, true))
            }
            Some(c @ ('-' | '+')) => Some((c, false)),
            _ => None,
        };
        let Some((sign, empty_is_unset)) = modifier else {
            return Err(format!("the modifier of ${{{name}}} is not supported"));
        };
        let word = self.until(Some('}'))?;
        let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
        Ok(match (sign, set) {
            ('-', Some(value)) => value,
            ('+', None) => String::new(),
            _ => word,
        })
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.rest.front() {
            let fits =
                c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && !name.is_empty());
            if !fits {
                break;
            }
            name.push(c);
            self.rest.pop_front();
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_quotes_and_escapes() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("x$A", "x1"),
            ("${A}b", "1b"),
            ("$AB", ""),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A 'x'\"", "1 'x'"),
            ("\"a\\\"b\\n\"", "a\"b\\n"),
            ("${B:-two}", "two"),
            ("${B:-${A}2}", "12"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+set}", "set"),
            ("${B:+set}", ""),
            ("a\\ b", "a b"),
            ("cost: 5$", "cost: 5$"),
        ] {
            assert_eq!(expand(text, &lookup).unwrap(), expected, "{text}");
        }
        let text = "a \"$A\" \\$A 'it''s ${B:-x}'";
        assert_eq!(expand_text(text, &lookup).unwrap(), "a \"1\" \\$A 'it''s x'");
        for bad in ["${A", "'x", "\"x", "${A:?x}", "${A/x/y}"] {
            assert!(expand(bad, &lookup).is_err(), "{bad}");
        }
    }
}
