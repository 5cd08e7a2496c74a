//! `.dockerignore`: which files of a directory are not for the build.
//!
//! Counterpart: `moby/patternmatcher`. A pattern names files and all below them; of several that fit, the last one
//! counts, and `!` takes back.

use regex::Regex;

pub struct Ignore(Vec<Rule>);

struct Rule {
    pattern: Regex,
    takes_back: bool,
}

// === impl Ignore ===

impl Ignore {
    /// What a line has that is no pattern is an error with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(Rule::parse).collect::<Result<_, _>>().map(Ignore)
    }

    /// `path` is relative and without `.` and `..`.
    pub fn leaves_out(&self, path: &str) -> bool {
        let fits = |rule: &&Rule| {
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            ends.into_iter().any(|end| rule.pattern.is_match(&path[..end]))
        };
        self.0.iter().rfind(fits).is_some_and(|rule| !rule.takes_back)
    }

    /// Whether nothing below a directory that is left out can come back.
    pub fn is_final(&self) -> bool {
        !self.0.iter().any(|rule| rule.takes_back)
    }
}

// === impl Rule ===

impl Rule {
    fn parse(line: &str) -> Result<Self, String> {
        let (takes_back, rest) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let parts = rest.split('/').filter(|part| !part.is_empty() && *part != ".");
        let mut clean: Vec<&str> = Vec::new();
        for part in parts {
            match part {
                ".." => drop(clean.pop()),
                part => clean.push(part),
            }
        }
        let clean = clean.join("/");
        let wrong = |_| format!("{line:?} is no pattern");
        let pattern = Regex::new(&translate(&clean)).map_err(wrong)?;
        Ok(Rule { pattern, takes_back })
    }
}

/// `*` and `?` stay within a name, `**` does not.
fn translate(pattern: &str) -> String {
    let mut regex = String::from("^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => match chars.next_if_eq(&'/') {
                Some(_) => regex.push_str("(?:.*/)?"),
                None => regex.push_str(".*"),
            },
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '[' | ']' | '-' | '^' => regex.push(c),
            '\\' => regex.extend(chars.next().map(|c| regex::escape(&c.to_string()))),
            c => regex.push_str(&regex::escape(&c.to_string())),
        }
    }
    regex + "$"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_counts() {
        let ignore = Ignore::parse(
            "# comment\n*.md\n!README.md\n/target\n**/*.log\ntmp?\nsrc/**/gen\n./a/../b\n\n",
        )
        .unwrap();
        for (path, expected) in [
            ("x.md", true),
            ("README.md", false),
            ("doc/x.md", false),
            ("target/debug/app", true),
            ("sub/target", false),
            ("a.log", true),
            ("deep/er/a.log", true),
            ("tmp1/file", true),
            ("tmp", false),
            ("src/one/two/gen/file", true),
            ("src/gen", true),
            ("b/c", true),
        ] {
            assert_eq!(ignore.leaves_out(path), expected, "{path}");
        }
        assert!(!ignore.is_final());
        assert!(Ignore::parse("[").is_err());
    }

    #[test]
    fn everything_but_something() {
        let ignore = Ignore::parse("**\n!app/bin").unwrap();
        assert!(ignore.leaves_out("app/src"));
        assert!(!ignore.leaves_out("app/bin/tool"));
    }
}
