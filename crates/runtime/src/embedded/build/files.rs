//! COPY, ADD and WORKDIR: steps that put files into the image.
//!
//! Consumes an instruction and the stage so far, emits a layer, or one of an earlier build that holds the same.

use std::io;

use serde_json::json;

use super::{Build, refused};
use crate::{
    error::Result,
    image::{
        ImageStore,
        build::{
            cache::key,
            copy::Placement,
            dockerfile::{Copy, Source},
            layer_writer::{LayerWriter, Overrides, WrittenLayer},
            stage::Stage,
            target::Target,
        },
    },
};

/// A COPY whose variables are resolved.
struct Resolved {
    sources: Vec<Source>,
    target: String,
    owner: Option<String>,
    mode: Option<u32>,
}

impl Build {
    pub(super) async fn workdir(&self, stage: &mut Stage, path: &str, text: &str) -> Result<()> {
        let path = stage.resolve(&stage.expand(path).map_err(refused("WORKDIR"))?);
        stage.set("WorkingDir", json!(path));
        let target = self.probe(stage, &path, None).await?;
        if target.is_directory {
            stage.note(text, None, None);
            return Ok(());
        }
        let written = self.write(move |writer, _| writer.add_directory(&target.path, None)).await?;
        self.add_layer(stage, text, written).await
    }

    pub(super) async fn copy(&self, stage: &mut Stage, copy: &Copy, text: &str) -> Result<()> {
        let name = if copy.unpack { "ADD" } else { "COPY" };
        let wanted = resolve(stage, copy).map_err(refused(name))?;
        let place = stage.resolve(&wanted.target);
        let target = self.probe(stage, &place, wanted.owner).await?;
        let into_directory = wanted.target.ends_with('/')
            || wanted.target == "."
            || target.is_directory
            || wanted.sources.len() > 1;
        let from = self.source_of(copy.from.as_deref()).await?;
        let (unpack, context) = (copy.unpack, self.context.clone());
        let overrides = Overrides { owner: target.owner, mode: wanted.mode };
        let written = self.write(move |writer, images| {
            let mut placement = Placement {
                target: target.path,
                into_directory,
                exists: target.is_directory,
                overrides,
                unpack,
                writer,
            };
            let place = || {
                wanted.sources.iter().try_for_each(|source| match source {
                    Source::Path(pattern) => placement.copy(pattern),
                    Source::Inline { name, content, .. } => {
                        placement.inline(name, content.as_bytes())
                    }
                })
            };
            match from {
                None => images.view_dir(&context, place),
                Some(source) => images.view(&source.stack, place),
            }
        });
        self.add_layer(stage, text, written.await?).await
    }

    /// Whose files `--from` means; `None` is the context.
    async fn source_of(&self, from: Option<&str>) -> Result<Option<Stage>> {
        let Some(from) = from else { return Ok(None) };
        match from.parse::<usize>() {
            Err(_) => Ok(Some(self.base(from).await?)),
            Ok(at) => match self.done.get(at).cloned().flatten() {
                Some(stage) => Ok(Some(stage)),
                None => Err(refused("--from")(format!("there is no earlier stage {at}"))),
            },
        }
    }

    async fn probe(&self, stage: &Stage, path: &str, owner: Option<String>) -> Result<Target> {
        let (stack, path) = (stage.stack.clone(), path.to_owned());
        self.blocking(move |runtime| {
            let found = runtime.images.view(&stack, || Target::find(&path, owner.as_deref()));
            found.map_err(refused("target"))
        })
        .await
    }

    async fn write(
        &self,
        fill: impl FnOnce(&mut LayerWriter, &ImageStore) -> io::Result<()> + Send + 'static,
    ) -> Result<WrittenLayer> {
        self.blocking(move |runtime| {
            let mut writer = runtime.images.layer_writer()?;
            fill(&mut writer, &runtime.images).map_err(refused("files"))?;
            writer.finish().map_err(refused("files"))
        })
        .await
    }

    /// The same files upon the same layers are the layer of an earlier build, whatever their times.
    async fn add_layer(&self, stage: &mut Stage, text: &str, written: WrittenLayer) -> Result<()> {
        let step = key(&[stage.stack.chain(), "files", &written.content]);
        if let Some(known) = self.remembered(&step) {
            written.discard();
            return self.put_upon(stage, text, known).await;
        }
        let entry = self.blocking(move |runtime| {
            let blob = runtime.images.keep_layer(written)?;
            runtime.images.builds.remember(step, blob)
        });
        self.put_upon(stage, text, entry.await?).await
    }
}

fn resolve(stage: &Stage, copy: &Copy) -> std::result::Result<Resolved, String> {
    let optional = |text: &Option<String>| text.as_ref().map(|text| stage.expand(text)).transpose();
    let mode = optional(&copy.chmod)?.map(|text| {
        u32::from_str_radix(&text, 8).map_err(|_| format!("--chmod={text} is no octal number"))
    });
    let sources = copy.sources.iter().map(|source| match source {
        Source::Path(path) => stage.expand(path).map(Source::Path),
        Source::Inline { name, content, expands: true } => Ok(Source::Inline {
            name: name.clone(),
            content: stage.expand_text(content)?,
            expands: false,
        }),
        inline => Ok(inline.clone()),
    });
    Ok(Resolved {
        sources: sources.collect::<std::result::Result<_, _>>()?,
        target: stage.expand(&copy.target)?,
        owner: optional(&copy.chown)?,
        mode: mode.transpose()?,
    })
}
