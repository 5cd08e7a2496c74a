//! The stages of a Dockerfile, and which of them a target needs.
//!
//! Consumes instructions, splits them at FROM, decides what the arguments before the first FROM say, emits
//! [`Section`]s. Pure. Counterpart: BuildKit's `instructions.Parse` and the reachability of `dockerfile2llb`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    dockerfile::{Copy, Instruction, Line, ParseError},
    expand::expand,
};
use crate::image::config::Platform;

/// The instructions from one FROM to the next.
pub(crate) struct Section {
    pub line: usize,
    pub image: String,
    pub name: Option<String>,
    pub lines: Vec<Line>,
}

/// A whole Dockerfile, arguments of its FROMs resolved.
pub(crate) struct Sections {
    pub all: Vec<Section>,
    /// ARGs before the first FROM, which stages see when they declare them again.
    pub global: BTreeMap<String, String>,
}

// === impl Sections ===

impl Sections {
    /// `given` are the values of ARGs that the asker names.
    pub fn of(lines: Vec<Line>, given: &BTreeMap<String, String>) -> Result<Self, ParseError> {
        let mut sections = Sections { all: Vec::new(), global: platform_arguments() };
        for line in lines {
            let number = line.number;
            let fault = |reason| ParseError { line: number, reason };
            match line.instruction {
                Instruction::From { image, name, platform } => {
                    sections.check(platform.as_deref()).map_err(fault)?;
                    let image = sections.expand(&image).map_err(fault)?;
                    if image.is_empty() {
                        return Err(fault("base name should not be blank".into()));
                    }
                    let lines = Vec::new();
                    sections.all.push(Section { line: number, image, name, lines });
                }
                Instruction::Arg(ref arguments) if sections.all.is_empty() => {
                    for (name, default) in arguments {
                        let default = default.as_ref().map(|text| sections.expand(text));
                        let default = default.transpose().map_err(fault)?;
                        let value = given.get(name).cloned().or(default);
                        sections.global.extend(value.map(|value| (name.clone(), value)));
                    }
                }
                instruction => {
                    let section = sections.all.last_mut().expect("the parser wants FROM first");
                    section.lines.push(Line { instruction, ..line });
                }
            }
        }
        Ok(sections)
    }

    /// By name or by number; without either the last.
    pub fn target(&self, wanted: Option<&str>) -> Option<usize> {
        match wanted {
            None => Some(self.all.len() - 1),
            Some(wanted) => find(&self.all, wanted, self.all.len()),
        }
    }

    /// Positions of the sections that lead to `target`, itself among them.
    pub fn needed(&self, target: usize) -> BTreeSet<usize> {
        let (mut found, mut open) = (BTreeSet::new(), vec![target]);
        while let Some(at) = open.pop() {
            if !found.insert(at) {
                continue;
            }
            open.extend(find_named(&self.all, &self.all[at].image, at));
            for line in &self.all[at].lines {
                if let Instruction::Copy(Copy { from: Some(from), .. }) = &line.instruction {
                    open.extend(find(&self.all, from, at));
                }
            }
        }
        found
    }

    fn expand(&self, text: &str) -> Result<String, String> {
        expand(text, &|name| self.global.get(name).cloned())
    }

    /// Only this machine's platform can be built.
    fn check(&self, platform: Option<&str>) -> Result<(), String> {
        let Some(platform) = platform else { return Ok(()) };
        let (wanted, host) = (self.expand(platform)?, Platform::host());
        match wanted == host.to_string() || wanted == format!("{}/{}", host.os, host.architecture) {
            true => Ok(()),
            false => {
                Err(format!("platform {wanted} is not supported: this node builds for {host}"))
            }
        }
    }
}

fn find(sections: &[Section], name: &str, before: usize) -> Option<usize> {
    let numbered = || name.parse().ok().filter(|at| *at < before);
    find_named(sections, name, before).or_else(numbered)
}

fn find_named(sections: &[Section], name: &str, before: usize) -> Option<usize> {
    let is_it = |s: &Section| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
    sections[..before].iter().rposition(is_it)
}

/// Arguments that say what is built for, known without being given.
fn platform_arguments() -> BTreeMap<String, String> {
    let host = Platform::host();
    let mut all = BTreeMap::new();
    for side in ["BUILD", "TARGET"] {
        for (part, value) in [
            ("PLATFORM", host.to_string()),
            ("OS", host.os.clone()),
            ("ARCH", host.architecture.clone()),
            ("VARIANT", host.variant.clone()),
        ] {
            all.insert(format!("{side}{part}"), value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::build::dockerfile::parse;

    fn sections(text: &str, given: &[(&str, &str)]) -> Result<Sections, ParseError> {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sections::of(parse(text).unwrap(), &given)
    }

    #[test]
    fn only_stages_that_lead_to_the_target_are_built() {
        let text =
            "FROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY --from=1 x y\nFROM c AS four";
        let sections = sections(text, &[]).unwrap();
        assert_eq!(sections.needed(2), BTreeSet::from([0, 1, 2]));
        assert_eq!(sections.needed(3), BTreeSet::from([3]));
        assert_eq!(sections.needed(0), BTreeSet::from([0]));
    }

    #[test]
    fn targets_have_names_and_numbers() {
        let sections = sections("FROM a AS one\nFROM b", &[]).unwrap();
        for (wanted, expected) in
            [(None, Some(1)), (Some("ONE"), Some(0)), (Some("1"), Some(1)), (Some("x"), None)]
        {
            assert_eq!(sections.target(wanted), expected, "{wanted:?}");
        }
    }

    #[test]
    fn bases_take_arguments_that_come_before_them() {
        let image = |given: &[(&str, &str)]| {
            let text = "ARG TAG=1\nARG IMAGE=app:$TAG\nFROM $IMAGE";
            sections(text, given).unwrap().all[0].image.clone()
        };
        assert_eq!(image(&[]), "app:1");
        assert_eq!(image(&[("TAG", "2")]), "app:2");
        let blank = sections("FROM $NOBODY", &[]).err().unwrap();
        assert_eq!(blank.to_string(), "line 1: base name should not be blank");
    }

    #[test]
    fn another_platform_is_refused() {
        assert!(sections("FROM --platform=$BUILDPLATFORM a", &[]).is_ok());
        let refused = sections("FROM --platform=linux/s390x a", &[]).err().unwrap().to_string();
        assert!(refused.starts_with("line 1: platform linux/s390x is not supported"), "{refused}");
    }
}
