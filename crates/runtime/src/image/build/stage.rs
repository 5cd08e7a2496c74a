//! A stage of a build: the image as far as it is made.
//!
//! Consumes instructions that change no files, emits the config document. Pure.
//! Invariant: `rootfs.diff_ids` and the layers are of the same length; every instruction leaves one
//! line of history.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    dockerfile::{Command, Instruction},
    expand::{expand, expand_text},
};
use crate::image::{
    config::Platform,
    store::{LayerBlob, Stack},
};

#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// The image's config document.
    pub document: Value,
    pub layers: Vec<LayerBlob>,
    pub stack: Stack,
    /// ARGs declared so far that have a value.
    pub args: BTreeMap<String, String>,
    /// CMD was given here and not inherited: ENTRYPOINT lets it stand.
    own_cmd: bool,
}

// === impl Stage ===

impl Stage {
    /// `FROM scratch`.
    pub fn empty() -> Self {
        let host = Platform::host();
        let rootfs = json!({"type": "layers", "diff_ids": []});
        let mut document = json!({"architecture": host.architecture, "os": host.os,
            "config": {}, "rootfs": rootfs, "history": []});
        if !host.variant.is_empty() {
            document["variant"] = json!(host.variant);
        }
        Stage::upon(document, Vec::new(), Stack::default())
    }

    pub fn upon(mut document: Value, layers: Vec<LayerBlob>, stack: Stack) -> Self {
        for (part, empty) in [("config", json!({})), ("history", json!([]))] {
            if document[part].is_null() {
                document[part] = empty;
            }
        }
        Stage { document, layers, stack, args: BTreeMap::new(), own_cmd: false }
    }

    /// The next stage upon this one: its arguments are its own.
    pub fn continued(&self) -> Self {
        Stage { args: BTreeMap::new(), own_cmd: false, ..self.clone() }
    }

    /// What variables mean here: ENV before ARG.
    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = self.environment();
        let found = environment.iter().find_map(|pair| {
            pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        });
        found.or_else(|| self.args.get(name).cloned())
    }

    pub fn expand(&self, text: &str) -> Result<String, String> {
        expand(text, &|name| self.variable(name))
    }

    /// Expands a whole text, whose quotes are its own.
    pub fn expand_text(&self, text: &str) -> Result<String, String> {
        expand_text(text, &|name| self.variable(name))
    }

    pub fn environment(&self) -> Vec<String> {
        strings(&self.document["config"]["Env"])
    }

    pub fn shell(&self) -> Vec<String> {
        match strings(&self.document["config"]["Shell"]) {
            shell if shell.is_empty() => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell,
        }
    }

    pub fn text(&self, key: &str) -> String {
        self.document["config"][key].as_str().unwrap_or_default().to_owned()
    }

    /// The words a command runs as.
    pub fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    /// An absolute path in the image: relative ones are below the working directory.
    pub fn resolve(&self, path: &str) -> String {
        let base = self.text("WorkingDir");
        match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", base.trim_end_matches('/')).replacen("//", "/", 1),
        }
    }

    /// Carries out an instruction that changes no files and declares no argument.
    pub fn configure(&mut self, instruction: &Instruction) -> Result<(), String> {
        match instruction {
            Instruction::Env(pairs) => {
                // Every value sees what was set before the instruction, as upstream.
                let expanded = self.expand_pairs::<String>(pairs)?;
                let mut environment = self.environment();
                for (key, value) in expanded {
                    environment.retain(|pair| pair.split('=').next() != Some(&key));
                    environment.push(format!("{key}={value}"));
                }
                self.set("Env", json!(environment));
            }
            Instruction::Label(pairs) => self.insert("Labels", self.expand_pairs(pairs)?),
            Instruction::Entrypoint(command) => {
                self.set("Entrypoint", json!(self.command(command)));
                if !self.own_cmd {
                    self.set("Cmd", Value::Null);
                }
            }
            Instruction::Cmd(command) => {
                self.set("Cmd", json!(self.command(command)));
                self.own_cmd = true;
            }
            Instruction::Shell(shell) => self.set("Shell", json!(shell)),
            Instruction::User(user) => self.set("User", json!(self.expand(user)?)),
            Instruction::Expose(ports) => {
                let mut exposed = Vec::new();
                for port in ports {
                    exposed.push((port_of(&self.expand(port)?)?, json!({})));
                }
                self.insert("ExposedPorts", exposed);
            }
            Instruction::Volume(paths) => {
                let paths = paths.iter().map(|path| Ok((self.expand(path)?, json!({}))));
                let paths: Result<Vec<_>, String> = paths.collect();
                self.insert("Volumes", paths?);
            }
            Instruction::StopSignal(signal) => self.set("StopSignal", json!(self.expand(signal)?)),
            Instruction::Maintainer(name) => self.document["author"] = json!(name),
            Instruction::Healthcheck => {}
            other => unreachable!("{other:?} changes more than the config"),
        }
        Ok(())
    }

    pub fn set(&mut self, key: &str, value: Value) {
        let config = self.document["config"].as_object_mut().expect("a config is an object");
        match value {
            Value::Null => drop(config.remove(key)),
            value => drop(config.insert(key.to_owned(), value)),
        }
    }

    /// Notes what an instruction did; `layer` is what it added.
    pub fn note(&mut self, text: &str, made: Option<jiff::Timestamp>, layer: Option<LayerBlob>) {
        let mut entry = json!({"created_by": text});
        if let Some(made) = made {
            entry["created"] = json!(made);
            self.document["created"] = json!(made);
        }
        match layer {
            None => entry["empty_layer"] = json!(true),
            Some(layer) => {
                let ids = self.document["rootfs"]["diff_ids"].as_array_mut();
                ids.expect("diff ids are a list").push(json!(layer.diff_id));
                self.layers.push(layer);
            }
        }
        self.document["history"].as_array_mut().expect("history is a list").push(entry);
    }

    fn expand_pairs<T: From<String>>(
        &self,
        pairs: &[(String, String)],
    ) -> Result<Vec<(String, T)>, String> {
        let expanded = pairs.iter().map(|(k, v)| Ok((self.expand(k)?, self.expand(v)?.into())));
        expanded.collect()
    }

    fn insert(&mut self, key: &str, entries: Vec<(String, Value)>) {
        let config = self.document["config"].as_object_mut().expect("a config is an object");
        let map = config.entry(key).or_insert_with(|| json!({}));
        if map.is_null() {
            *map = json!({});
        }
        for (name, value) in entries {
            map[name] = value;
        }
    }
}

/// `80` is `80/tcp`.
fn port_of(text: &str) -> Result<String, String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let numbers: Vec<_> = port.split('-').map(str::parse::<u16>).collect();
    match numbers.iter().all(Result::is_ok) && numbers.len() <= 2 {
        true => Ok(format!("{port}/{}", protocol.to_ascii_lowercase())),
        false => Err(format!("invalid containerPort: {text}")),
    }
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::build::dockerfile::parse;

    fn built(text: &str) -> Value {
        let mut stage = Stage::empty();
        for line in parse(&format!("FROM scratch\n{text}")).unwrap().into_iter().skip(1) {
            stage.configure(&line.instruction).unwrap();
            stage.note(&line.text, None, None);
        }
        stage.document
    }

    #[test]
    fn instructions_become_the_config() {
        let config = built(
            "ENV A=1 B=\"$A x\"\nENV B=\"$A x\" A=2\nLABEL k=$B\nUSER app\nEXPOSE 80 53/UDP\n\
             VOLUME /data\nSTOPSIGNAL SIGINT\nCMD echo hi\nHEALTHCHECK NONE",
        )["config"]
            .take();
        let expected = json!({"Env": ["B=1 x", "A=2"], "Labels": {"k": "1 x"}, "User": "app",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}},
            "StopSignal": "SIGINT", "Cmd": ["/bin/sh", "-c", "echo hi"]});
        assert_eq!(config, expected);
    }

    #[test]
    fn an_entrypoint_takes_an_inherited_command_away_and_its_own_not() {
        let base = Stage::upon(built("CMD [\"old\"]"), Vec::new(), Stack::default());
        let with = |text: &str| {
            let mut stage = base.continued();
            for line in parse(&format!("FROM x\n{text}")).unwrap().into_iter().skip(1) {
                stage.configure(&line.instruction).unwrap();
            }
            stage.document["config"]["Cmd"].clone()
        };
        assert_eq!(with("ENTRYPOINT [\"e\"]"), Value::Null);
        assert_eq!(with("CMD [\"new\"]\nENTRYPOINT [\"e\"]"), json!(["new"]));
        assert_eq!(with("SHELL [\"/bin/bash\", \"-c\"]\nCMD x"), json!(["/bin/bash", "-c", "x"]));
    }

    #[test]
    fn paths_are_below_the_working_directory() {
        let mut stage = Stage::empty();
        assert_eq!(stage.resolve("a"), "/a");
        stage.set("WorkingDir", json!("/app"));
        assert_eq!(stage.resolve("a/"), "/app/a/");
        assert_eq!(stage.resolve("/b"), "/b");
    }
}
