//! Archives in every form, and what is refused.

use std::fs;

use serde_json::json;
use skiff_runtime::{Error, ImageService};

use crate::{
    archive::{Files, ImageBuilder, Layer, Packing, write_archive},
    fixture::{Node, exited, on_node, script},
};

async fn output_of(node: &Node, image: &str, text: &str) -> String {
    let mut config = script("main", text);
    config.image = image.to_owned();
    let (code, log) = node.run(config).await;
    assert_eq!(code, 0, "{text}: {log}");
    log
}

fn layers(node: &Node) -> usize {
    fs::read_dir(node.dir.join("root/layers")).unwrap().count()
}

#[test]
fn every_packing_and_form_loads() {
    on_node(|node| async move {
        for (at, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate()
        {
            let name = format!("packed:{at}");
            let layer = Layer::new().file("etc/which", 0o644, name.as_bytes());
            let image =
                node.load(&ImageBuilder::new(&name).layer(layer).oci(packing)).await.remove(0);
            assert_eq!(image.repo_tags, [format!("docker.io/library/{name}")]);
            assert_eq!(output_of(node, &name, "cat /etc/which").await, name);
        }
        let old = ImageBuilder::new("old:1").layer(Layer::new().file("etc/which", 0o644, "old"));
        node.load(&old.docker()).await;
        assert_eq!(output_of(node, "old:1", "cat /etc/which").await, "old");

        // Both descriptions in one archive are one image.
        let both = ImageBuilder::new("both:1").layer(Layer::new().file("etc/which", 0o644, "both"));
        let mut files = both.oci(Packing::Plain);
        let mut docker = both.docker();
        docker.last_mut().unwrap().1 = String::from_utf8(docker.last().unwrap().1.clone())
            .unwrap()
            .replace("both:1", "both:alias")
            .into_bytes();
        files.extend(docker);
        let images = node.load(&files).await;
        assert_eq!(images.len(), 1);
        assert_eq!(
            images[0].repo_tags,
            ["docker.io/library/both:1", "docker.io/library/both:alias"]
        );
        // The base layer is stored once, however it was packed.
        assert_eq!(layers(node), 1 + 5);

        // A compressed archive as a whole.
        let path = node.dir.join("plain.tar");
        write_archive(&path, &old.docker());
        let packed = node.dir.join("packed.tar.gz");
        fs::write(&packed, crate::archive::pack(&fs::read(&path).unwrap(), Packing::Gzip)).unwrap();
        node.runtime.load_image(&packed).await.unwrap();
    });
}

#[test]
fn layers_apply_as_the_specification_says() {
    on_node(|node| async move {
        let first = Layer::new()
            .dir("keep", 0o755)
            .file("keep/gone", 0o644, "x")
            .file("keep/stays", 0o644, "x")
            .dir("opaque", 0o700)
            .file("opaque/below", 0o644, "x")
            .file("opaque/deep/er", 0o644, "x")
            .file("was-file", 0o644, "x")
            .dir("was-dir", 0o755)
            .file("was-dir/x", 0o644, "x")
            .symlink("lib64", "usr/lib")
            .dir("usr/lib", 0o755)
            .file_of("owned", 0o4755, (1000, 1001), "x")
            .xattr("user.note", "hello")
            .file("noted", 0o644, "x")
            .file("original", 0o644, "linked")
            .hardlink("same", "original");
        let second = Layer::new()
            .file("keep/.wh.gone", 0o644, "")
            .file("opaque/above", 0o644, "x")
            .file("opaque/.wh..wh..opq", 0o644, "")
            .dir("was-file", 0o755)
            .file("was-dir", 0o644, "now a file")
            .file("lib64/through-link", 0o644, "x")
            .hardlink("to-below", "original");
        node.load(&ImageBuilder::new("layered:1").layer(first).layer(second).oci(Packing::Gzip))
            .await;
        let text = "ls /keep /opaque; test -d /was-file; cat /was-dir; echo; ls /usr/lib; readlink /lib64; \
                    stat -c '%u %g %a' /owned; stat -c %h /same; cat /to-below; echo; stat -c %a /keep /opaque; \
                    stat -c %Y /was-file /keep/stays";
        let expected = "/keep:\nstays\n\n/opaque:\nabove\nnow a file\nthrough-link\nusr/lib\n1000 1001 4755\n2\n\
                        linked\n755\n700\n1000000000\n1000000000\n";
        assert_eq!(output_of(node, "layered:1", text).await, expected);
        let noted = walk_find(&node.dir.join("root/layers"), "noted").unwrap();
        assert_eq!(xattr::get(noted, "user.note").unwrap().as_deref(), Some(&b"hello"[..]));
    });
}

fn walk_find(dir: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name {
            Some(path)
        } else if entry.file_type().ok()?.is_dir() {
            walk_find(&path, name)
        } else {
            None
        }
    })
}

#[test]
fn bad_archives_are_refused_and_leave_nothing() {
    on_node(|node| async move {
        let (images, stored) = (node.runtime.list_images().await.unwrap(), layers(node));
        let good = ImageBuilder::new("bad:1")
            .layer(Layer::new().file("one", 0o644, "1"))
            .layer(Layer::new().file("two", 0o644, vec![7; 5000]));
        let mut cases: Vec<(&str, Files)> = Vec::new();
        // A layer known from another image is not read again, so the damage must be in one of its
        // own.
        let mut flipped = good.oci(Packing::Plain);
        let own =
            flipped.iter_mut().find(|(_, content)| content.len() > 5000 && content.len() < 20_000);
        own.unwrap().1[2000] ^= 1;
        cases.push(("a flipped bit", flipped));
        let mut manifest = good.oci(Packing::Plain);
        let document = manifest
            .iter_mut()
            .rfind(|(name, content)| name.starts_with("blobs") && content[0] == b'{');
        *document.unwrap().1.last_mut().unwrap() = b' ';
        cases.push(("a changed document", manifest));
        let mut cut = good.oci(Packing::Gzip);
        let last = cut
            .iter_mut()
            .filter(|(name, _)| name.starts_with("blobs"))
            .filter(|(_, content)| content[0] != b'{' && content.len() < 20_000)
            .last()
            .unwrap();
        last.1.truncate(last.1.len() / 2);
        cases.push(("a cut layer", cut));
        let missing = good.oci(Packing::Plain).into_iter().take(3).collect();
        cases.push(("missing blobs", missing));
        cases.push(("no index", vec![("readme".to_owned(), b"hi".to_vec())]));
        cases.push(("a broken index", vec![("index.json".to_owned(), b"{".to_vec())]));
        let climbing = Layer::new().raw("../../escape", b"x");
        cases.push((
            "a climbing path",
            ImageBuilder::new("bad:2").layer(climbing).oci(Packing::Plain),
        ));
        cases.push(("a path that is no layer", {
            let mut builder = ImageBuilder::new("bad:3");
            builder.layers.push(b"this is not a tar file at all".repeat(40));
            builder.oci(Packing::Plain)
        }));
        let path = node.dir.join("bad.tar");
        for (what, files) in cases {
            write_archive(&path, &files);
            let error = node.runtime.load_image(&path).await.expect_err(what);
            assert!(
                matches!(error, Error::BadArchive { .. } | Error::DigestMismatch { .. }),
                "{what}: {error}"
            );
            assert_eq!(node.runtime.list_images().await.unwrap(), images, "{what}");
            assert_eq!(layers(node), stored, "{what}");
        }
        fs::write(&path, b"garbage").unwrap();
        assert!(matches!(node.runtime.load_image(&path).await, Err(Error::BadArchive { .. })));
        let none = node.runtime.load_image(&node.dir.join("no-such.tar")).await;
        assert!(matches!(none, Err(Error::Io { .. })), "{none:?}");
    });
}

#[test]
fn an_interrupted_import_is_swept_at_the_next_start() {
    on_node(|node| async move {
        let stored = layers(node);
        let root = node.dir.join("root");
        // What a kill -9 leaves: a layer being unpacked, a complete one that no record names, a
        // blob.
        fs::create_dir_all(root.join("layers/tmp-abc/fs/bin")).unwrap();
        fs::create_dir_all(root.join("layers/0123456789abcdef01234567")).unwrap();
        fs::write(root.join("content/blobs/sha256/stray"), "x").unwrap();
        let second = node.reopen().await;
        assert_eq!(layers(node), stored);
        assert!(!root.join("content/blobs/sha256/stray").exists());
        assert_eq!(second.list_images().await.unwrap(), node.runtime.list_images().await.unwrap());
    });
}

#[test]
fn another_platforms_image_is_refused() {
    on_node(|node| async move {
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
            "digest": format!("sha256:{}", "0".repeat(64)), "platform": {"architecture": "s390x", "os": "linux"}}]});
        let path = node.dir.join("other.tar");
        write_archive(&path, &[("index.json".to_owned(), index.to_string().into_bytes())]);
        let refused = node.runtime.load_image(&path).await;
        assert!(matches!(refused, Err(Error::NoMatchingPlatform { .. })), "{refused:?}");
    });
}

#[test]
fn images_are_found_by_every_name_and_removed() {
    on_node(|node| async move {
        let layer = || Layer::new().file("etc/which", 0o644, "named");
        let image = node
            .load(&ImageBuilder::new("kuard:blue").layer(layer()).oci(Packing::Plain))
            .await
            .remove(0);
        let hex = image.id.trim_start_matches("sha256:").to_owned();
        let by_digest = image.repo_digests[0].clone();
        assert!(by_digest.starts_with("docker.io/library/kuard@sha256:"));
        for name in [
            "kuard:blue",
            "docker.io/library/kuard:blue",
            "library/kuard:blue",
            &image.id,
            &hex,
            &hex[..12],
            &by_digest,
        ] {
            assert_eq!(
                node.runtime.image_status(name).await.unwrap().as_ref(),
                Some(&image),
                "{name}"
            );
        }
        assert_eq!(node.runtime.image_status("kuard:green").await.unwrap(), None);
        // A container keeps its layers when the image goes.
        let sandbox = node.sandbox("keeper").await;
        let mut config =
            script("keeper", "while ! test -e /go; do sleep 0.02; done; cat /etc/which");
        config.image = "kuard:blue".to_owned();
        let id = node.start(&sandbox, config).await;
        let stored = layers(node);
        node.runtime.remove_image("kuard:blue").await.unwrap();
        assert_eq!(node.runtime.image_status("kuard:blue").await.unwrap(), None);
        assert_eq!(layers(node), stored);
        node.output(&id, "touch /go").await;
        assert_eq!(exited(&*node.runtime, &id).await.exit_code, Some(0));
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(layers(node), stored - 1);
        // Again is fine.
        node.runtime.remove_image("kuard:blue").await.unwrap();

        // A tag moves to what was loaded last.
        node.load(&ImageBuilder::new("kuard:blue").layer(layer()).oci(Packing::Plain)).await;
        node.load(
            &ImageBuilder::new("kuard:blue")
                .layer(Layer::new().file("etc/which", 0o644, "newer"))
                .oci(Packing::Plain),
        )
        .await;
        assert_eq!(output_of(node, "kuard:blue", "cat /etc/which").await, "newer");
        let usage = node.runtime.image_fs_info().await.unwrap();
        // The base's busybox is a megabyte or two; its applets are links.
        assert!(usage.used_bytes > 1 << 20 && usage.inodes_used > 30, "{usage:?}");
        let reopened = node.reopen().await;
        assert_eq!(
            reopened.list_images().await.unwrap(),
            node.runtime.list_images().await.unwrap()
        );
    });
}

#[test]
fn an_image_of_a_hundred_layers_runs() {
    on_node(|node| async move {
        let mut builder = ImageBuilder::new("deep:1");
        for at in 0..100 {
            builder = builder.layer(Layer::new().file(&format!("deep/{at}"), 0o644, "x"));
        }
        node.load(&builder.oci(Packing::Plain)).await;
        assert_eq!(output_of(node, "deep:1", "ls /deep | wc -l").await.trim(), "100");
    });
}
