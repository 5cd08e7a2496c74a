//! Reads a Dockerfile: lines into instructions, instructions into what they mean.
//!
//! Consumes text, emits [`Instruction`]s with the lines they stand on. Counterpart: BuildKit's
//! `frontend/dockerfile/parser` and `instructions`.
//! Invariant: what is not understood is an error with its line, never skipped.

mod lines;

use std::collections::BTreeMap;

use lines::{Heredoc, split};

#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub number: usize,
    pub instruction: Instruction,
    /// As written, for progress and history.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Copy),
    Run(Run),
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    User(String),
    Workdir(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Maintainer(String),
    /// Nothing that runs images of this kind heeds it.
    Healthcheck,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub command: Command,
    pub heredoc: Option<String>,
    /// `--network=none`.
    pub offline: bool,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    pub sources: Vec<Source>,
    pub target: String,
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    /// ADD unpacks archives.
    pub unpack: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Path(String),
    /// A file written in the Dockerfile itself.
    Inline {
        name: String,
        content: String,
        /// Variables in it mean something.
        expands: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Exec(Vec<String>),
    Shell(String),
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    pub line: usize,
    pub reason: String,
}

type Parsed<T> = Result<T, ParseError>;

/// All instructions of a Dockerfile; the first but ARG is FROM.
pub fn parse(text: &str) -> Parsed<Vec<Line>> {
    let mut lines = Vec::new();
    for raw in split(text)? {
        let number = raw.number;
        let fault = |reason: String| ParseError { line: number, reason };
        let (word, rest) = raw.text.split_once(char::is_whitespace).unwrap_or((&raw.text, ""));
        let instruction = understand(word, rest.trim(), &raw.heredocs).map_err(fault)?;
        let begun = lines.iter().any(|l: &Line| matches!(l.instruction, Instruction::From { .. }));
        if !begun && !matches!(instruction, Instruction::From { .. } | Instruction::Arg(_)) {
            return Err(fault("no build stage in current context: FROM must come first".into()));
        }
        lines.push(Line { number, instruction, text: raw.text });
    }
    match lines.iter().any(|line| matches!(line.instruction, Instruction::From { .. })) {
        true => Ok(lines),
        false => Err(ParseError { line: 1, reason: "the Dockerfile has no FROM".into() }),
    }
}

// === instructions ===

fn understand(word: &str, rest: &str, heredocs: &[Heredoc]) -> Result<Instruction, String> {
    let name = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(format!("{name} requires at least one argument"));
    }
    Ok(match name.as_str() {
        "FROM" => from(rest)?,
        "ARG" => Instruction::Arg(words(rest)?.into_iter().map(|w| argument(&w)).collect()),
        "ENV" => Instruction::Env(pairs("ENV", rest)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest)?),
        "COPY" => Instruction::Copy(copy(rest, heredocs, false)?),
        "ADD" => Instruction::Copy(copy(rest, heredocs, true)?),
        "RUN" => run(rest, heredocs)?,
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "CMD" => Instruction::Cmd(command(rest)),
        "SHELL" => match command(rest) {
            Command::Exec(shell) if !shell.is_empty() => Instruction::Shell(shell),
            _ => return Err("SHELL requires its arguments in JSON form".into()),
        },
        "USER" => Instruction::User(rest.to_owned()),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "EXPOSE" => Instruction::Expose(words(rest)?),
        "VOLUME" => Instruction::Volume(match command(rest) {
            Command::Exec(paths) => paths,
            Command::Shell(text) => words(&text)?,
        }),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
        "HEALTHCHECK" => Instruction::Healthcheck,
        "ONBUILD" => return Err("ONBUILD is not supported".into()),
        _ => return Err(format!("unknown instruction: {word}")),
    })
}

fn from(rest: &str) -> Result<Instruction, String> {
    let (mut flags, rest) = flags(rest)?;
    let platform = flags.remove("platform");
    if let Some(flag) = flags.keys().next() {
        return Err(format!("unknown flag: --{flag}"));
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    match words.as_slice() {
        [image] => Ok(Instruction::From { image: (*image).into(), name: None, platform }),
        [image, keyword, name] if keyword.eq_ignore_ascii_case("as") => Ok(Instruction::From {
            image: (*image).into(),
            name: Some(name.to_ascii_lowercase()),
            platform,
        }),
        _ => Err("FROM requires either one or three arguments: IMAGE [AS NAME]".into()),
    }
}

fn argument(word: &str) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    }
}

/// `KEY=value ..`, or the old `KEY value with spaces`. Quotes stay for the expansion to take away.
fn pairs(name: &str, rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{name} must have two arguments"))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            Err(format!("syntax error: can't find = in {word:?}; must be of the form: name=value"))
        }
    };
    words(rest)?.into_iter().map(pair).collect()
}

fn run(rest: &str, heredocs: &[Heredoc]) -> Result<Instruction, String> {
    let (flags, rest) = flags(rest)?;
    let mut offline = false;
    for (flag, value) in &flags {
        match (flag.as_str(), value.as_str()) {
            ("network", "none") => offline = true,
            ("network", "default") | ("security", "sandbox") => {}
            _ => return Err(format!("RUN --{flag}={value} is not supported")),
        }
    }
    match heredocs {
        [] => Ok(Instruction::Run(Run { command: command(rest), heredoc: None, offline })),
        [only] => {
            let before: Vec<&str> =
                rest.split_whitespace().filter(|word| !word.starts_with("<<")).collect();
            let command = Command::Shell(before.join(" "));
            let heredoc = Some(only.content.clone());
            Ok(Instruction::Run(Run { command, heredoc, offline }))
        }
        _ => Err("RUN takes one here-document".into()),
    }
}

fn copy(rest: &str, heredocs: &[Heredoc], unpack: bool) -> Result<Copy, String> {
    let name = if unpack { "ADD" } else { "COPY" };
    let (mut flags, rest) = flags(rest)?;
    let mut words = match command(rest) {
        Command::Exec(words) => words,
        Command::Shell(text) => self::words(&text)?,
    };
    let (from, chown, chmod) = (flags.remove("from"), flags.remove("chown"), flags.remove("chmod"));
    // What --link promises, layers that stand alone, is not promised.
    flags.remove("link");
    if let Some(flag) = flags.keys().next() {
        return Err(format!("{name} --{flag} is not supported"));
    }
    let target = words.pop().filter(|_| !words.is_empty());
    let target =
        target.ok_or_else(|| format!("{name} requires at least two arguments: SOURCE.. TARGET"))?;
    if words.iter().any(|word| word.contains("://") || word.starts_with("git@")) {
        return Err(format!("{name} from a network address is not supported"));
    }
    let source = |word: String| match word.strip_prefix("<<") {
        None => Source::Path(word),
        Some(marker) => {
            let name = marker.trim_start_matches('-').trim_matches(['"', '\'']).to_owned();
            let found = heredocs.iter().find(|heredoc| heredoc.name == name);
            let content = found.map(|heredoc| heredoc.content.clone()).unwrap_or_default();
            Source::Inline { name, content, expands: found.is_some_and(|heredoc| heredoc.expands) }
        }
    };
    let sources: Vec<Source> = words.into_iter().map(source).collect();
    if sources.len() > 1 && !target.ends_with('/') {
        return Err(format!(
            "when using {name} with more than one source file, the destination must be a directory and end with a /"
        ));
    }
    Ok(Copy { sources, target, from, chown, chmod, unpack })
}

/// `--name=value` in front of the arguments.
fn flags(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
        let (flag, tail) = flag.split_at(end);
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        found.insert(name.to_owned(), value.to_owned());
        rest = tail.trim_start();
    }
    Ok((found, rest))
}

/// JSON that is an array of strings is executed as it is, anything else is the shell's.
fn command(text: &str) -> Command {
    match serde_json::from_str(text) {
        Ok(words) => Command::Exec(words),
        Err(_) => Command::Shell(text.to_owned()),
    }
}

/// Splits at spaces outside of quotes; quotes and escapes stay.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                found.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if quote.is_some() {
        return Err("unexpected end of statement while looking for matching quote".into());
    }
    found.extend((!word.is_empty()).then_some(word));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Instruction {
        parse(&format!("FROM scratch\n{text}")).unwrap().pop().unwrap().instruction
    }

    fn running(command: Command, heredoc: Option<String>) -> Instruction {
        Instruction::Run(Run { command, heredoc, offline: false })
    }

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn stages_have_names() {
        let parsed = parse("ARG V=1\nFROM --platform=linux/amd64 golang:$V AS Build\nfrom scratch");
        let stages: Vec<Instruction> =
            parsed.unwrap().into_iter().map(|line| line.instruction).collect();
        assert_eq!(stages[0], Instruction::Arg(vec![("V".into(), Some("1".into()))]));
        let build = Instruction::From {
            image: "golang:$V".into(),
            name: Some("build".into()),
            platform: Some("linux/amd64".into()),
        };
        assert_eq!(stages[1], build);
        assert_eq!(
            stages[2],
            Instruction::From { image: "scratch".into(), name: None, platform: None }
        );
    }

    #[test]
    fn lines_go_on_over_comments_and_keep_their_number() {
        let text = "# a comment\nFROM scratch\n\nRUN one && \\\n  # why\n\n  two\nCMD [\"x\"]\n";
        let lines = parse(text).unwrap();
        assert_eq!(lines.iter().map(|l| l.number).collect::<Vec<_>>(), [2, 4, 8]);
        let command = Command::Shell("one &&   two".into());
        assert_eq!(lines[1].instruction, running(command, None));
        let windows = parse("# escape=`\nFROM scratch\nRUN a `\n b\\").unwrap();
        let command = Command::Shell("a  b\\".into());
        assert_eq!(windows[1].instruction, running(command, None));
    }

    #[test]
    fn pairs_have_two_forms() {
        assert_eq!(
            one("ENV A=1 B=\"x y\" C=a\\ b"),
            Instruction::Env(own(&[("A", "1"), ("B", "\"x y\""), ("C", "a\\ b"),]))
        );
        assert_eq!(one("ENV A some text"), Instruction::Env(own(&[("A", "some text")])));
        assert_eq!(one("LABEL a.b=c"), Instruction::Label(own(&[("a.b", "c")])));
    }

    #[test]
    fn commands_are_json_or_the_shells() {
        let exec = Command::Exec(vec!["a".into(), "b c".into()]);
        assert_eq!(one("CMD [\"a\", \"b c\"]"), Instruction::Cmd(exec));
        assert_eq!(one("CMD ['a']"), Instruction::Cmd(Command::Shell("['a']".into())));
        assert_eq!(one("VOLUME /a /b"), Instruction::Volume(vec!["/a".into(), "/b".into()]));
    }

    #[test]
    fn copies_have_flags_and_here_documents() {
        let Instruction::Copy(copy) =
            one("COPY --from=build --chown=1:2 --chmod=755 a \"b c\" /to/")
        else {
            panic!()
        };
        assert_eq!((copy.from.as_deref(), copy.chown.as_deref()), (Some("build"), Some("1:2")));
        assert_eq!((copy.sources.len(), copy.target.as_str()), (2, "/to/"));
        let Instruction::Copy(copy) = one("COPY <<EOF /etc/motd\nhello\n  # kept\nEOF\n") else {
            panic!()
        };
        let inline = Source::Inline {
            name: "EOF".into(),
            content: "hello\n  # kept\n".into(),
            expands: true,
        };
        assert_eq!(copy.sources, [inline]);
        let run = one("RUN <<-END\n\techo a\n\techo b\n\tEND");
        let heredoc = Some("echo a\necho b\n".into());
        assert_eq!(run, running(Command::Shell("".into()), heredoc));
    }

    #[test]
    fn faults_name_their_line() {
        for (text, expected) in [
            ("RUN x", "line 1: no build stage in current context: FROM must come first"),
            ("", "line 1: the Dockerfile has no FROM"),
            ("FROM a b", "line 1: FROM requires either one or three arguments: IMAGE [AS NAME]"),
            ("FROM a\n\nFORM b", "line 3: unknown instruction: FORM"),
            ("FROM a\nONBUILD RUN x", "line 2: ONBUILD is not supported"),
            ("FROM a\nCOPY a", "line 2: COPY requires at least two arguments: SOURCE.. TARGET"),
            ("FROM a\nRUN --mount=type=cache x", "line 2: RUN --mount=type=cache is not supported"),
            ("FROM a\nENV x", "line 2: ENV must have two arguments"),
            ("FROM a\nRUN <<EOF\nx", "line 2: the here-document EOF has no end"),
            ("FROM a\nCOPY --exclude=b a /", "line 2: COPY --exclude is not supported"),
            (
                "FROM a\nENV a='b",
                "line 2: unexpected end of statement while looking for matching quote",
            ),
            ("FROM a\nWORKDIR", "line 2: WORKDIR requires at least one argument"),
        ] {
            assert_eq!(fault(text), expected, "{text}");
        }
    }
}
