//! Builds images from Dockerfiles.
//!
//! Consumes a Dockerfile and a directory of files, decides stage by stage which steps were made before, runs the
//! others, emits an image. What a step does is in [`files`] (COPY, ADD, WORKDIR) and [`run`] (RUN); instructions that
//! change no files are the [`Stage`]'s own. Counterpart: BuildKit's Dockerfile frontend and solver.
//! Invariant: nothing is tagged before every step is done; what a failed build leaves is unnamed and collected.

mod files;
mod run;

pub(super) use run::is_build;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use super::Embedded;
use crate::{
    cri::{ImageService, NamespaceMode, PullImage},
    error::{Error, Result},
    image::{
        Arrival, ImageRecord, Reference,
        build::{
            cache::Entry,
            dockerfile::{self, Instruction, Line, ParseError},
            sections::{Section, Sections},
            stage::Stage,
        },
    },
};

/// What to build, beside the files it is built from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BuildOptions {
    pub dockerfile: String,
    pub tags: Vec<String>,
    /// The stage to stop at; the last one.
    pub target: Option<String>,
    pub build_args: BTreeMap<String, String>,
    /// Steps are run even if they were before.
    pub no_cache: bool,
    pub network: BuildNetwork,
}

/// What RUN can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub enum BuildNetwork {
    /// What a pod can.
    #[default]
    Pod,
    /// The node's own network.
    Host,
    /// Nothing but itself.
    None,
}

/// Arguments every Dockerfile may use without declaring them.
const PREDEFINED_ARGS: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

struct Build {
    runtime: Arc<Embedded>,
    options: BuildOptions,
    context: Arc<PathBuf>,
    tell: UnboundedSender<String>,
    arrival: Arc<Arrival>,
    /// ARGs before the first FROM.
    global: BTreeMap<String, String>,
    /// By position; `None` for one that nothing needs.
    done: Vec<Option<Stage>>,
    names: Vec<Option<String>>,
}

impl Embedded {
    /// Builds an image of `context` and answers its id; `tell` hears each step and what it prints.
    pub async fn build_image(
        &self,
        options: BuildOptions,
        context: PathBuf,
        tell: UnboundedSender<String>,
    ) -> Result<String> {
        let lines = dockerfile::parse(&options.dockerfile)?;
        let sections = Sections::of(lines, &options.build_args)?;
        let tags: BTreeSet<Reference> =
            options.tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<_>>()?;
        let mut build = Build {
            runtime: self.this.upgrade().ok_or(Error::Shutdown)?,
            options,
            context: Arc::new(context),
            tell,
            arrival: self.images.arrival().await,
            global: BTreeMap::new(),
            done: Vec::new(),
            names: Vec::new(),
        };
        let built = build.run(sections, tags).await;
        drop(build);
        self.blocking(|this| {
            this.collect_layers();
            Ok(())
        })
        .await?;
        built
    }
}

// === impl BuildNetwork ===

impl BuildNetwork {
    fn namespace(self) -> NamespaceMode {
        match self {
            BuildNetwork::Pod => NamespaceMode::Pod,
            BuildNetwork::Host => NamespaceMode::Node,
            BuildNetwork::None => NamespaceMode::Container,
        }
    }
}

// === impl Build ===

impl Build {
    async fn run(&mut self, sections: Sections, tags: BTreeSet<Reference>) -> Result<String> {
        let wanted = self.options.target.as_deref();
        let target = sections.target(wanted).ok_or_else(|| Error::InvalidConfig {
            what: "build target",
            reason: format!("target stage {:?} could not be found", wanted.unwrap_or_default()),
        })?;
        let needed = sections.needed(target);
        self.global = sections.global;
        for (at, section) in sections.all.into_iter().enumerate().take(target + 1) {
            self.names.push(section.name.clone());
            let stage = match needed.contains(&at) {
                true => Some(self.section(section).await?),
                false => None,
            };
            self.done.push(stage);
        }
        let unused = self.unused_args();
        if !unused.is_empty() {
            self.say(format!("one or more build-args were not consumed: {}", unused.join(", ")));
        }
        let stage = self.done.pop().flatten().expect("the target is needed");
        Ok(self.adopt(&stage, tags).await?.id)
    }

    fn unused_args(&self) -> Vec<String> {
        let declared = |name: &String| {
            self.global.contains_key(name)
                || PREDEFINED_ARGS.contains(&name.as_str())
                || self.done.iter().flatten().any(|stage| stage.args.contains_key(name))
        };
        self.options.build_args.keys().filter(|name| !declared(name)).cloned().collect()
    }

    async fn section(&mut self, section: Section) -> Result<Stage> {
        let name = section.name.as_ref().map(|name| format!(" AS {name}")).unwrap_or_default();
        self.say(format!("FROM {}{name}", section.image));
        let base = self.base(&section.image).await;
        let mut stage = base.map_err(|error| at_line(section.line, error))?;
        for line in section.lines {
            let number = line.number;
            self.step(&mut stage, line).await.map_err(|error| at_line(number, error))?;
        }
        Ok(stage)
    }

    /// An earlier stage, nothing, an image that is here, or one of a registry.
    async fn base(&self, image: &str) -> Result<Stage> {
        if let Some(stage) = self.stage_named(image) {
            return Ok(stage.continued());
        }
        if image == "scratch" {
            return Ok(Stage::empty());
        }
        let images = &self.runtime.images;
        let record = match images.find(image) {
            Some(record) => record,
            None => {
                self.say(format!("Pulling {image}"));
                let request = PullImage { reference: image.to_owned(), ..PullImage::default() };
                let id = self.runtime.pull_image(request).await?;
                images.find(&id).ok_or_else(|| Error::ImageNotFound(image.to_owned()))?
            }
        };
        self.blocking(move |runtime| {
            let document = runtime.images.config_document(&record)?;
            let (layers, stack) = runtime.images.layers_of(&record)?;
            Ok(Stage::upon(document, layers, stack))
        })
        .await
    }

    fn stage_named(&self, name: &str) -> Option<&Stage> {
        let is_it = |known: &Option<String>| {
            known.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(name))
        };
        // The stage that is being built has a name and is not done.
        let at = self.names[..self.done.len()].iter().rposition(is_it)?;
        self.done[at].as_ref()
    }

    async fn step(&mut self, stage: &mut Stage, line: Line) -> Result<()> {
        self.say(format!("{:>4}  {}", line.number, line.text));
        match &line.instruction {
            Instruction::Copy(copy) => self.copy(stage, copy, &line.text).await,
            Instruction::Workdir(path) => self.workdir(stage, path, &line.text).await,
            Instruction::Run(run) => self.execute(stage, run, &line.text).await,
            other => {
                if matches!(other, Instruction::Healthcheck) {
                    self.say("      HEALTHCHECK is ignored: Kubernetes has probes".to_owned());
                }
                self.configure(stage, other).map_err(refused("instruction"))?;
                stage.note(&line.text, None, None);
                Ok(())
            }
        }
    }

    fn configure(
        &self,
        stage: &mut Stage,
        instruction: &Instruction,
    ) -> std::result::Result<(), String> {
        let Instruction::Arg(arguments) = instruction else {
            return stage.configure(instruction);
        };
        for (name, default) in arguments {
            let default = default.as_ref().map(|text| stage.expand(text)).transpose()?;
            let given = self.options.build_args.get(name).cloned();
            let value = given.or(default).or_else(|| self.global.get(name).cloned());
            stage.args.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(())
    }

    fn remembered(&self, step: &str) -> Option<Entry> {
        (!self.options.no_cache).then(|| self.runtime.images.built(step)).flatten()
    }

    /// Puts a layer that is in the store upon the stage.
    async fn put_upon(&self, stage: &mut Stage, text: &str, entry: Entry) -> Result<()> {
        let (mut stack, blob) = (stage.stack.clone(), entry.layer.clone());
        stage.stack = self
            .blocking(move |runtime| {
                runtime.images.put_upon(&mut stack, &blob)?;
                Ok(stack)
            })
            .await?;
        stage.note(text, Some(entry.made), Some(entry.layer));
        Ok(())
    }

    /// Makes the stage an image of the store.
    async fn adopt(&self, stage: &Stage, names: BTreeSet<Reference>) -> Result<ImageRecord> {
        let stage = stage.clone();
        self.blocking(move |runtime| {
            runtime.images.assemble(names, &stage.document, stage.layers, stage.stack)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Embedded) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let arrival = self.arrival.clone();
        self.runtime
            .blocking(move |runtime| {
                // It goes on when its asker has gone.
                let _building = arrival;
                work(runtime)
            })
            .await
    }

    fn say(&self, line: String) {
        // Who asked may have gone; the build ends with the request.
        let _ = self.tell.send(line);
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Error {
        Error::Build { line: error.line, reason: error.reason }
    }
}

fn refused<T: ToString>(what: &'static str) -> impl Fn(T) -> Error {
    move |reason| Error::InvalidConfig { what, reason: reason.to_string() }
}

/// Says which line of the Dockerfile it was.
fn at_line(line: usize, error: Error) -> Error {
    let reason = match error {
        Error::InvalidConfig { what, reason } => format!("{what}: {reason}"),
        other => other.to_string(),
    };
    Error::Build { line, reason }
}
