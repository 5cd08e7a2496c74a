//! Regular expressions of schemas, in the syntax of Go's `regexp`.
//!
//! Text -> [`Pattern`], or the words in which Go refuses it. The syntax is RE2's with Perl's classes; it is rewritten for
//! the `regex` crate, whose own extensions (nested classes, Unicode `\d`) would give the same text another meaning.
//! Compiled on first use: a definition may hold thousands of patterns that no object ever meets.

mod escapes;
mod parser;

use std::sync::OnceLock;

use parser::Parser;
use regex::Regex;

pub struct Pattern {
    text: String,
    rewritten: String,
    compiled: OnceLock<Option<Regex>>,
}

// === impl Pattern ===

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let rewritten =
            Parser::new(text).run().map_err(|why| format!("error parsing regexp: {why}"))?;
        Ok(Pattern { text: text.to_owned(), rewritten, compiled: OnceLock::new() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether any part of the text matches. A pattern too large to compile matches nothing.
    pub fn is_match(&self, text: &str) -> bool {
        let compile =
            || regex::RegexBuilder::new(&self.rewritten).size_limit(64 << 20).build().ok();
        self.compiled.get_or_init(compile).as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, yes, no) in [
            ("^[a-z[]$", "[", "]"),
            (r"^\d+$", "12", "١"),
            (r"^[\w-]+$", "a-b_1", "ä"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            ("^[a&&b]$", "&", "c"),
            ("^a{2,3}$", "aa", "a"),
            ("^a{,2}$", "a{,2}", "aa"),
            (r"^[^\s]$", "x", " "),
            ("(?i)^ABC$", "abc", "abd"),
            ("^(?P<n>a)|(?<m>b)$", "b", "c"),
            (r"^\x41\x{42}\103$", "ABC", "abc"),
            (r"^[[:alpha:]]\pL\p{Greek}$", "aéα", "1éα"),
            ("^[]a]$", "]", "b"),
            (r"^\.$", ".", "x"),
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-a"),
        ] {
            let compiled = Pattern::parse(pattern).expect(pattern);
            assert!(compiled.is_match(yes), "{pattern} matches {yes}");
            assert!(!compiled.is_match(no), "{pattern} does not match {no}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused_in_gos_words() {
        for (pattern, wanted) in [
            ("[", "missing closing ]: `[`"),
            ("a[b", "missing closing ]: `[b`"),
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?P<n", "invalid named capture: `(?P<n`"),
            (r"\p{None}", r"invalid character class range: `\p{None}`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        ] {
            let refused = Pattern::parse(pattern).err().unwrap_or_default();
            assert_eq!(refused, format!("error parsing regexp: {wanted}"), "{pattern}");
        }
    }

    #[test]
    fn damaged_patterns_never_panic() {
        crate::mutation::each(
            br"^(?i:[a-z[:alpha:]\d]{2,3}|\Qx\E\x{41}\pL(?P<n>b)*?)$",
            5_000,
            |bytes| {
                let _ = std::str::from_utf8(bytes).map(Pattern::parse);
            },
        );
    }
}
