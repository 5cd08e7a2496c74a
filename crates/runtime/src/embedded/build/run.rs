//! RUN: one command in a container of the image so far, and what it changed.
//!
//! Consumes a command and the stage so far, emits a layer, or that of an earlier build. The sandbox belongs to no pod
//! and is shown to nobody; its network is a pod's, the node's, or none.
//! Invariant: the sandbox is gone at the end, however it ended; one that a daemon left is removed by the next.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Build, BuildNetwork, PREDEFINED_ARGS, refused};
use crate::{
    cri::{
        ContainerConfig, ContainerState, ContainerStatus, NamespaceMode, PodSandboxConfig,
        PodSandboxMetadata, Runtime,
    },
    embedded::{Embedded, record::new_id},
    error::{IoContext, Result},
    image::build::{
        cache::key, changes::write_changes, dockerfile, layer_writer::WrittenLayer, stage::Stage,
    },
};

/// How often what the command prints is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// No namespace of Kubernetes has such a name.
const NAMESPACE: &str = "(build)";

/// What one container runs, and who hears of it.
struct Run<'a> {
    build: &'a Build,
    image: String,
    words: Vec<String>,
    /// `NAME=value`, beside the image's own.
    environment: Vec<String>,
    network: NamespaceMode,
}

impl Build {
    pub(super) async fn execute(
        &self,
        stage: &mut Stage,
        run: &dockerfile::Run,
        text: &str,
    ) -> Result<()> {
        let words = words(stage, run);
        let environment = self.run_environment(stage);
        let network = if run.offline { BuildNetwork::None } else { self.options.network };
        let step = key(&[
            stage.stack.chain(),
            "run",
            &stage.document["config"].to_string(),
            &environment.join("\n"),
            &words.join("\0"),
            &format!("{network:?}"),
        ]);
        if let Some(known) = self.remembered(&step) {
            self.say("      (from cache)".to_owned());
            return self.put_upon(stage, text, known).await;
        }
        let known: BTreeSet<String> =
            self.runtime.images.list().into_iter().map(|image| image.id).collect();
        let image = self.adopt(stage, BTreeSet::new()).await?.id;
        let network = network.namespace();
        let run = Run { build: self, image: image.clone(), words, environment, network };
        let changed = run.until_done().await;
        if !known.contains(&image) {
            self.runtime.images.remove(&image)?;
        }
        let written = changed?;
        let entry = self.blocking(move |runtime| {
            let blob = runtime.images.keep_layer(written)?;
            runtime.images.builds.remember(step, blob)
        });
        self.put_upon(stage, text, entry.await?).await
    }

    /// ARGs are seen by commands, and stay out of the image.
    fn run_environment(&self, stage: &Stage) -> Vec<String> {
        let predefined = self.options.build_args.iter();
        let predefined = predefined.filter(|(name, _)| PREDEFINED_ARGS.contains(&name.as_str()));
        let set = stage.environment();
        let is_set = |name: &str| set.iter().any(|pair| pair.split('=').next() == Some(name));
        let arguments = predefined.chain(&stage.args).filter(|(name, _)| !is_set(name));
        arguments.map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Embedded {
    /// Removes what builds of an earlier daemon left.
    pub(crate) async fn remove_builds(&self) -> Result<()> {
        let left: Vec<_> = self.sandboxes().values().cloned().collect();
        for sandbox in left {
            let (id, is_build) = {
                let record = sandbox.record();
                (record.id.clone(), is_build(&record.config))
            };
            if is_build {
                self.remove_pod_sandbox(&id).await?;
            }
        }
        Ok(())
    }
}

/// Whether a sandbox is a build's and no pod's.
pub(crate) fn is_build(config: &PodSandboxConfig) -> bool {
    config.metadata.namespace == NAMESPACE
}

// === impl Run ===

impl Run<'_> {
    async fn until_done(self) -> Result<WrittenLayer> {
        let runtime = &self.build.runtime;
        let config = self.sandbox_config()?;
        let logs = config.log_directory.clone();
        let sandbox = runtime.run_pod_sandbox(config).await?;
        let removal = Removal { runtime, sandbox: Some(sandbox.clone()), logs };
        let written = self.in_sandbox(&sandbox).await;
        removal.now().await?;
        written
    }

    async fn in_sandbox(&self, sandbox: &str) -> Result<WrittenLayer> {
        let runtime = &self.build.runtime;
        let id = runtime.create_container(sandbox, self.container_config()).await?;
        runtime.start_container(&id).await?;
        let code = self.follow(&id).await?.exit_code.unwrap_or(-1);
        if code != 0 {
            let words = self.words.join(" ");
            let reason = format!("the command {words:?} returned a non-zero code: {code}");
            return Err(refused("RUN")(reason));
        }
        let upper = runtime.container(&id)?.dir.join("upper");
        self.build
            .blocking(move |runtime| {
                let mut writer = runtime.images.layer_writer()?;
                write_changes(&upper, &mut writer).at("read what changed in", &upper)?;
                writer.finish().at("write a layer of", &upper)
            })
            .await
    }

    /// Tells what the command prints until it ends.
    async fn follow(&self, id: &str) -> Result<ContainerStatus> {
        let mut told = 0;
        loop {
            let status = self.build.runtime.container_status(id).await?;
            told = self.print(&status.log_path, told);
            if status.state == ContainerState::Exited {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells whole lines of the log from `told` on; answers how far it came.
    fn print(&self, log: &Path, told: usize) -> usize {
        let content = std::fs::read(log).unwrap_or_default();
        let new = &content[told.min(content.len())..];
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&new[..whole]).lines() {
            // Time, stream and tag come before what was printed.
            let said = line.splitn(4, ' ').nth(3).unwrap_or_default();
            self.build.say(format!("      {said}"));
        }
        told + whole
    }

    fn sandbox_config(&self) -> Result<PodSandboxConfig> {
        let id = new_id()?;
        let mut config = PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: "build".to_owned(),
                uid: id.clone(),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            },
            hostname: "build".to_owned(),
            log_directory: self.build.runtime.root.join("build-logs").join(id),
            ..PodSandboxConfig::default()
        };
        config.linux.namespaces.network = self.network;
        Ok(config)
    }

    fn container_config(&self) -> ContainerConfig {
        let pairs = self.environment.iter().filter_map(|pair| pair.split_once('='));
        let mut config = ContainerConfig {
            image: self.image.clone(),
            command: self.words.clone(),
            envs: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            log_path: "run.log".into(),
            ..ContainerConfig::default()
        };
        config.metadata.name = "run".to_owned();
        config
    }
}

/// A script goes to the shell, to the interpreter it names, or to the command that stands before it.
fn words(stage: &Stage, run: &dockerfile::Run) -> Vec<String> {
    let words = stage.command(&run.command);
    let Some(script) = &run.heredoc else { return words };
    let before = words.last().map(|word| word.trim().to_owned()).unwrap_or_default();
    let mut shell = stage.shell();
    shell.push(match (before.is_empty(), script.starts_with("#!")) {
        (true, false) => script.clone(),
        (true, true) => format!(
            "f=$(mktemp) && cat > \"$f\" <<'SKIFF_SCRIPT'\n{script}SKIFF_SCRIPT\nchmod +x \"$f\" && \"$f\"; \
             c=$?; rm -f \"$f\"; exit $c"
        ),
        // The command reads it from its standard input.
        (false, _) => format!("{before} <<'SKIFF_SCRIPT'\n{script}SKIFF_SCRIPT\n"),
    });
    shell
}

/// Removes the sandbox, also when the build is given up in between.
struct Removal<'a> {
    runtime: &'a Embedded,
    sandbox: Option<String>,
    logs: PathBuf,
}

impl Removal<'_> {
    async fn now(mut self) -> Result<()> {
        match self.sandbox.take() {
            Some(sandbox) => self.runtime.remove_pod_sandbox(&sandbox).await,
            None => Ok(()),
        }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        // A log that cannot be removed is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.logs);
        let (Some(sandbox), Some(runtime)) = (self.sandbox.take(), self.runtime.this.upgrade())
        else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = runtime.remove_pod_sandbox(&sandbox).await {
                tracing::warn!(sandbox, %error, "the sandbox of a build is not removed");
            }
        });
    }
}
