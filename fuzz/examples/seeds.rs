//! Seeds for the fuzz targets out of the recorded requests: `cargo run --example seeds` fills `corpus/`.
//!
//! Scenario files -> bodies, patches, queries, selectors and rules, each in the form its target takes.

use std::path::{Path, PathBuf};

use serde_json::Value;
use skiff_api::codec::to_proto;
use skiff_fuzz::{SEPARATOR, choice};

/// The patch languages, and the second byte of an input that chooses each.
const LANGUAGES: [(&str, u8); 3] =
    [("application/json-patch", 0), ("application/merge-patch", 1), ("application/strategic", 2)];

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Seeds { directory: root.join("corpus"), count: 0 };
    for file in files(&root.join("../tests/reference/scenarios"))? {
        let scenario: Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let steps = scenario["steps"].as_array().cloned().unwrap_or_default();
        for step in &steps {
            seeds.add_step(step)?;
        }
    }
    seeds.add_watches()?;
    println!("{} seeds in {}", seeds.count, seeds.directory.display());
    Ok(())
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

struct Seeds {
    directory: PathBuf,
    count: usize,
}

impl Seeds {
    fn add_step(&mut self, step: &Value) -> std::io::Result<()> {
        if let Some(query) = step["query"].as_str() {
            self.add("query", query.as_bytes())?;
        }
        self.add_query_terms(&step["query"])?;
        self.add_rules(&step["body"])?;
        let answer = &step["expect"]["body"];
        let media = step["contentType"].as_str().unwrap_or_default();
        match &step["body"] {
            Value::Null => Ok(()),
            body if media.contains("patch") => self.add_patch(media, answer, body),
            body => self.add_object(body),
        }
    }

    fn add_object(&mut self, object: &Value) -> std::io::Result<()> {
        let Some(choice) = chosen(object) else { return Ok(()) };
        let text = object.to_string();
        self.add("json", &[&[choice], text.as_bytes()].concat())?;
        self.add("yaml", &[&[choice], text.as_bytes()].concat())?;
        self.add("selector", &[&[choice], &b"a in (b),!c|metadata.name=x\0"[..], text.as_bytes()].concat())?;
        self.add("apply", &pair(&[choice], &text, &text))?;
        if let Some(bytes) = to_proto(object) {
            self.add("protobuf", &[&[choice], &bytes[..]].concat())?;
        }
        Ok(())
    }

    fn add_patch(&mut self, media: &str, answer: &Value, patch: &Value) -> std::io::Result<()> {
        let Some(choice) = chosen(answer) else { return Ok(()) };
        let patch = patch.as_str().map_or_else(|| patch.to_string(), str::to_owned);
        let object = answer.to_string();
        match LANGUAGES.iter().find(|(language, _)| media.starts_with(language)) {
            Some((_, how)) => self.add("patch", &pair(&[choice, *how], &object, &patch)),
            None => self.add("apply", &pair(&[choice], &object, &patch)),
        }
    }

    fn add_query_terms(&mut self, query: &Value) -> std::io::Result<()> {
        let Some(terms) = query.as_object() else { return Ok(()) };
        let terms = terms.iter().map(|(name, value)| {
            format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        let query: Vec<String> = terms.collect();
        self.add("query", query.join("&").replace(' ', "%20").as_bytes())
    }

    /// Where a watch resumes and what it is about: each byte of the form once at small and large values.
    fn add_watches(&mut self) -> std::io::Result<()> {
        for at in 0..8 {
            for byte in [1, 3, 0x7f, 0xff] {
                let mut form = [0; 8];
                form[at] = byte;
                self.add("watch", &form)?;
            }
        }
        Ok(())
    }

    /// Every text called a rule or an expression, at any depth.
    fn add_rules(&mut self, value: &Value) -> std::io::Result<()> {
        match value {
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match value {
                Value::String(text)
                    if matches!(name.as_str(), "rule" | "expression" | "messageExpression") =>
                {
                    self.add("cel", text.as_bytes())
                }
                other => self.add_rules(other),
            }),
            Value::Array(items) => items.iter().try_for_each(|item| self.add_rules(item)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, target: &str, bytes: &[u8]) -> std::io::Result<()> {
        let directory = self.directory.join(target);
        std::fs::create_dir_all(&directory)?;
        self.count += 1;
        std::fs::write(directory.join(format!("recorded-{}", self.count)), bytes)
    }
}

fn chosen(object: &Value) -> Option<u8> {
    choice(object["apiVersion"].as_str()?, object["kind"].as_str()?)
}

fn pair(choices: &[u8], first: &str, second: &str) -> Vec<u8> {
    [choices, first.as_bytes(), &[SEPARATOR], second.as_bytes()].concat()
}
