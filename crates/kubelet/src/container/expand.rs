//! `$(VAR)` references in commands, arguments, environment values and sub-path expressions.
//!
//! Counterpart: `third_party/forked/golang/expansion`.
//! Invariant: a reference to an unknown name stays as it is written; `$$` is a literal `$`.

/// Expands `text` with what `lookup` knows.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match reference(after) {
            Some(Reference::Name(name)) => {
                match lookup(name) {
                    Some(value) => out.push_str(&value),
                    None => out.push_str(&rest[at..at + name.len() + 3]),
                }
                &after[name.len() + 2..]
            }
            Some(Reference::Dollar) => {
                out.push('$');
                &after[1..]
            }
            None => {
                out.push('$');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

enum Reference<'a> {
    Name(&'a str),
    Dollar,
}

/// What follows a `$`.
fn reference(after: &str) -> Option<Reference<'_>> {
    match after.as_bytes().first()? {
        b'$' => Some(Reference::Dollar),
        b'(' => after[1..].find(')').map(|end| Reference::Name(&after[1..=end])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_upstreams_rules() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NONE)-$(A)", "$(NONE)-1"),
            ("[$(EMPTY)]", "[]"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("é$(A)é", "é1é"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
