//! Images built from Dockerfiles, and containers made from them.

use std::path::PathBuf;

use skiff_runtime::{BuildNetwork, BuildOptions, ContainerConfig, Error, ImageService, Result};

use crate::fixture::{Node, on_node};

/// A directory of files to build from.
struct Context(PathBuf);

impl Context {
    fn new(node: &Node, name: &str, files: &[(&str, &str)]) -> Self {
        let dir = node.dir.join(name);
        for (path, content) in files {
            std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            std::fs::write(dir.join(path), content).unwrap();
        }
        std::fs::create_dir_all(&dir).unwrap();
        Context(dir)
    }

    /// Answers the id and what was told.
    async fn build(&self, node: &Node, options: BuildOptions) -> (Result<String>, Vec<String>) {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let built = node.embedded.build_image(options, self.0.clone(), tell).await;
        let mut lines = Vec::new();
        while let Some(line) = told.recv().await {
            lines.push(line);
        }
        (built, lines)
    }
}

fn options(dockerfile: &str, tag: &str) -> BuildOptions {
    BuildOptions {
        dockerfile: dockerfile.to_owned(),
        tags: vec![tag.to_owned()],
        network: BuildNetwork::None,
        ..BuildOptions::default()
    }
}

/// What a script prints in a container of the image.
async fn output(node: &Node, image: &str, script: &str) -> String {
    let mut config = ContainerConfig {
        image: image.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: "check.log".into(),
        ..ContainerConfig::default()
    };
    config.metadata.name = "check".to_owned();
    let (code, log) = node.run(config).await;
    assert_eq!(code, 0, "{log}");
    log
}

fn reason(built: Result<String>) -> String {
    match built {
        Err(Error::Build { line, reason }) => format!("line {line}: {reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_commands_and_files_become_an_image() {
    on_node(async |node| {
        let files = [("app/main.txt", "main"), ("app/lib/x.txt", "lib"), ("note.md", "n")];
        let context = Context::new(node, "context", &files);
        let dockerfile = r#"
ARG BASE=busybox:test
FROM $BASE AS builder
ARG GREETING=hello
WORKDIR /work
COPY app/ ./
RUN echo "$GREETING from $(cat main.txt)" > made && mkdir -p /old && echo x > /old/file
RUN rm -r /old && chmod 4755 made

FROM $BASE
ENV COLOR=blue NAME="a b"
COPY --from=builder --chown=7:8 /work/made /work/lib/*.txt /deep/er/
COPY --chmod=600 *.md /note
COPY <<EOF <<'RAW' /inline/
color is "$COLOR"
EOF
$COLOR
RAW
LABEL k=v
EXPOSE 8080
USER 1000:1000
WORKDIR /deep
ENTRYPOINT ["sh", "-c"]
CMD ["cat er/made; id -u; echo $COLOR $NAME"]
"#;
        let mut wanted = options(dockerfile, "app:1");
        wanted.build_args.insert("GREETING".into(), "good day".into());
        let (built, told) = context.build(node, wanted).await;
        let id = built.unwrap_or_else(|error| panic!("{error}: {told:#?}"));
        let found = node.runtime.image_status("app:1").await.unwrap().unwrap();
        assert_eq!((found.id, found.uid), (id, Some(1000)));

        let mut config = ContainerConfig {
            image: "app:1".to_owned(),
            log_path: "app.log".into(),
            ..ContainerConfig::default()
        };
        config.metadata.name = "app".to_owned();
        let (code, log) = node.run(config).await;
        assert_eq!((code, log.as_str()), (0, "good day from main\n1000\nblue a b\n"));

        let check = "pwd; stat -c '%n %u:%g %a' /deep /deep/er /deep/er/made /deep/er/x.txt; \
                     stat -c %a /note; cat /inline/EOF /inline/RAW; ls / | grep -c -e old -e work";
        let expected = "/deep\n/deep 0:0 755\n/deep/er 0:0 755\n/deep/er/made 7:8 4755\n\
                        /deep/er/x.txt 7:8 644\n600\ncolor is \"blue\"\n$COLOR\n0\n";
        assert_eq!(output(node, "app:1", &format!("{check}; true")).await, expected);
        let document = node.embedded.inspect_image("app:1").unwrap();
        assert_eq!(document["Config"]["Labels"]["k"], "v");
        assert!(document["Config"]["ExposedPorts"]["8080/tcp"].is_object());
        let layers = document["RootFS"]["diff_ids"].as_array().unwrap().len();
        let history = document["History"].as_array().unwrap();
        let filled = history.iter().filter(|one| one["empty_layer"] != true).count();
        assert!(filled <= layers, "{document}");
    });
}

#[test]
fn what_a_command_removes_is_gone() {
    on_node(async |node| {
        let context = Context::new(node, "context", &[("f", "1")]);
        let dockerfile = "FROM busybox:test\nCOPY f /dir/a\nCOPY f /dir/b\nCOPY f /other/c\n\
                          RUN rm /dir/a && rm -r /other && mkdir /other && ln /dir/b /dir/hard";
        let (built, told) = context.build(node, options(dockerfile, "gone:1")).await;
        built.unwrap_or_else(|error| panic!("{error}: {told:#?}"));
        let seen = output(node, "gone:1", "ls /dir /other; stat -c %h /dir/b").await;
        assert_eq!(seen, "/dir:\nb\nhard\n\n/other:\n2\n");
    });
}

#[test]
fn steps_are_remembered_until_their_files_change() {
    on_node(async |node| {
        let context = Context::new(node, "context", &[("f", "one")]);
        let dockerfile = "FROM busybox:test\nRUN date +%s%N > /when\nCOPY f /f\nRUN cat /f > /g";
        let cached = |told: &[String]| told.iter().filter(|l| l.contains("from cache")).count();
        let (first, told) = context.build(node, options(dockerfile, "c:1")).await;
        assert_eq!(cached(&told), 0, "{told:#?}");
        let first = first.unwrap();
        // A fresh checkout has other times and the same content.
        std::fs::remove_file(context.0.join("f")).unwrap();
        std::fs::write(context.0.join("f"), "one").unwrap();
        let (second, told) = context.build(node, options(dockerfile, "c:2")).await;
        assert_eq!(second.unwrap(), first);
        assert_eq!(cached(&told), 2, "{told:#?}");
        std::fs::write(context.0.join("f"), "two").unwrap();
        let (third, told) = context.build(node, options(dockerfile, "c:3")).await;
        assert_ne!(third.unwrap(), first);
        assert_eq!(cached(&told), 1, "{told:#?}");
        let again = BuildOptions { no_cache: true, ..options(dockerfile, "c:4") };
        let (_, told) = context.build(node, again).await;
        assert_eq!(cached(&told), 0, "{told:#?}");
        // Memory outlives images and the daemon, and is given up on demand.
        let runtime = node.reopen().await;
        runtime.prune_images(true).await.unwrap();
        assert!(runtime.list_images().await.unwrap().is_empty());
    });
}

#[test]
fn a_failed_build_leaves_nothing() {
    on_node(async |node| {
        let context = Context::new(node, "context", &[("f", "1")]);
        let before = node.runtime.list_images().await.unwrap();
        for (dockerfile, expected) in [
            (
                "FROM busybox:test\nCOPY f /\nRUN echo why >&2; exit 3",
                "line 3: RUN: the command \"/bin/sh -c echo why >&2; exit 3\" returned a non-zero code: 3",
            ),
            ("FROM busybox:test\nCOPY none /", "line 2: files: \"/none\": not found"),
            (
                "FROM busybox:test\nCOPY ../f /",
                "line 2: files: forbidden path outside the build context",
            ),
            ("FROM scratch\nCOPY --from=3 f /", "line 2: --from: there is no earlier stage 3"),
            (
                "FROM scratch\nCOPY --chown=ada f /",
                "line 2: target: --chown: \"ada\" is not in /etc/passwd",
            ),
            ("FROM scratch\nRUN x", "line 2: failed to start container"),
        ] {
            let (built, told) = context.build(node, options(dockerfile, "never:1")).await;
            let reason = reason(built);
            assert!(reason.starts_with(expected), "{reason}\n{told:#?}");
        }
        let after = node.runtime.list_images().await.unwrap();
        assert_eq!(after.len(), before.len());
        assert!(node.runtime.list_pod_sandboxes().await.unwrap().is_empty());
        assert!(std::fs::read_dir(node.dir.join("root/sandboxes")).unwrap().next().is_none());
    });
}

#[test]
fn links_do_not_lead_out_of_what_is_copied_from() {
    on_node(async |node| {
        let context = Context::new(node, "context", &[("secret", "of the context")]);
        let outside = node.dir.join("secret");
        std::fs::write(&outside, "of the machine").unwrap();
        std::os::unix::fs::symlink("/secret", context.0.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../secret", context.0.join("climbing")).unwrap();
        let dockerfile = "FROM busybox:test\nCOPY absolute /a\nCOPY climbing /b";
        let (built, told) = context.build(node, options(dockerfile, "links:1")).await;
        built.unwrap_or_else(|error| panic!("{error}: {told:#?}"));
        let seen = output(node, "links:1", "cat /a; echo; cat /b").await;
        assert_eq!(seen, "of the context\nof the context");
    });
}

#[test]
fn a_build_that_is_given_up_ends_its_command() {
    on_node(async |node| {
        let context = Context::new(node, "context", &[]);
        let wanted = options("FROM busybox:test\nRUN echo begun; sleep 1000", "never:1");
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let runtime = node.embedded.clone();
        let task =
            tokio::spawn(async move { runtime.build_image(wanted, context.0.clone(), tell).await });
        while told.recv().await.is_some_and(|line| line.trim() != "begun") {}
        assert!(node.runtime.list_pod_sandboxes().await.unwrap().is_empty(), "it is no pod's");
        assert!(node.runtime.list_containers().await.unwrap().is_empty(), "it is no pod's");
        task.abort();
        let sandboxes = node.dir.join("root/sandboxes");
        crate::fixture::eventually("the sandbox's end", || {
            std::fs::read_dir(&sandboxes).unwrap().next().is_none()
        })
        .await;
    });
}
