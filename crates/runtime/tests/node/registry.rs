//! Pulls from a registry that misbehaves as real ones do.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use skiff_runtime::{AuthConfig, Error, PullImage, RegistryError};

use crate::{
    archive::{Files, ImageBuilder, Layer, Packing, digest},
    fixture::{Node, exited, on_node, script},
};

/// What the registry does wrong, or insists on.
#[derive(Default)]
struct Manners {
    /// Nothing without a token, and no token without this `user:password` in base64.
    token_for: Option<&'static str>,
    /// The first answer with each layer breaks off in the middle.
    breaks_off: bool,
    /// Blobs are elsewhere, on a host that must not see credentials.
    redirects: bool,
    /// The first request of all is answered 503.
    stumbles: bool,
    /// Blobs are not what they should be.
    corrupts: bool,
}

struct Registry {
    port: u16,
    manners: Manners,
    /// By digest and, for the image, by tag.
    documents: Documents,
    blobs: Blobs,
    /// Method, path and range of every request.
    log: Mutex<Vec<String>>,
}

impl Registry {
    /// Serves `image` as `app:1` until the test's process ends.
    fn serve(image: &ImageBuilder, packing: Packing, manners: Manners) -> Arc<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = image.oci(packing);
        let (documents, blobs) = contents(&files);
        let registry = Registry { port, manners, documents, blobs, log: Mutex::default() };
        let registry = Arc::new(registry);
        let server = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                std::thread::spawn(move || server.answer(stream.unwrap()));
            }
        });
        registry
    }

    fn image(&self) -> String {
        format!("127.0.0.1:{}/team/app:1", self.port)
    }

    fn requests(&self, of: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(of)).count()
    }

    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            found.map(str::to_owned)
        };
        let mut words = lines[0].split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let first = {
            let mut log = self.log.lock().unwrap();
            log.push(format!("{method} {path} {}", header("range").unwrap_or_default()));
            log.len() == 1
        };
        let reply = match first && self.manners.stumbles {
            true => Reply::new(503, "busy"),
            false => self.reply(path, header("authorization"), header("host"), header("range")),
        };
        reply.write(reader.into_inner(), method == "HEAD");
    }

    fn reply(
        &self,
        path: &str,
        authorization: Option<String>,
        host: Option<String>,
        range: Option<String>,
    ) -> Reply {
        if let Some(query) = path.strip_prefix("/token?") {
            assert_eq!(query, "service=test&scope=repository:team/app:pull");
            let right = self.manners.token_for.map(|pair| format!("Basic {pair}"));
            return match authorization == right {
                true => Reply::new(200, r#"{"token": "t0k"}"#),
                false => Reply::new(401, r#"{"errors": [{"message": "wrong password"}]}"#),
            };
        }
        if let Some(blob) = path.strip_prefix("/elsewhere/") {
            assert_eq!(authorization, None, "credentials went to another host");
            return self.blob(blob, range);
        }
        if self.manners.token_for.is_some() && authorization.as_deref() != Some("Bearer t0k") {
            let host = host.unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
            return Reply::new(401, "").header("WWW-Authenticate", challenge);
        }
        let rest = path.strip_prefix("/v2/team/app/").unwrap_or_default();
        if let Some(version) = rest.strip_prefix("manifests/") {
            return match self.documents.get(version) {
                Some((kind, content)) => Reply::new(200, content.as_slice())
                    .header("Content-Type", kind.clone())
                    .header("Docker-Content-Digest", digest(content)),
                None => Reply::new(404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#),
            };
        }
        match rest.strip_prefix("blobs/") {
            Some(blob) if self.manners.redirects => {
                let place = format!("http://localhost:{}/elsewhere/{blob}", self.port);
                Reply::new(307, "").header("Location", place)
            }
            Some(blob) => self.blob(blob, range),
            None => Reply::new(404, ""),
        }
    }

    fn blob(&self, digest: &str, range: Option<String>) -> Reply {
        let Some(content) = self.blobs.get(digest) else { return Reply::new(404, "") };
        let from = range.and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let mut content = content.clone();
        if self.manners.corrupts && content[0] != b'{' {
            content[700] ^= 1;
        }
        match from {
            Some(from) => Reply::new(206, &content[from..]),
            None => {
                let breaks = self.manners.breaks_off && content[0] != b'{';
                let sent = if breaks { content.len() / 2 } else { content.len() };
                Reply { sent, ..Reply::new(200, content) }
            }
        }
    }
}

/// Media type and text, by digest or tag.
type Documents = BTreeMap<String, (String, Vec<u8>)>;
type Blobs = BTreeMap<String, Vec<u8>>;

fn contents(files: &Files) -> (Documents, Blobs) {
    let (mut documents, mut blobs) = (BTreeMap::new(), BTreeMap::new());
    for (_, content) in files.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        let parsed: Value = serde_json::from_slice(content).unwrap_or_default();
        let kind = match (parsed.get("manifests"), parsed.get("layers")) {
            (Some(_), _) => "application/vnd.oci.image.index.v1+json",
            (_, Some(_)) => "application/vnd.oci.image.manifest.v1+json",
            _ => {
                blobs.insert(digest(content), content.clone());
                continue;
            }
        };
        documents.insert(digest(content), (kind.to_owned(), content.clone()));
        if kind.contains("index") {
            documents.insert("1".to_owned(), (kind.to_owned(), content.clone()));
        }
    }
    (documents, blobs)
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// How much of the body goes out before the connection ends.
    sent: usize,
}

impl Reply {
    fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Reply { status, headers: Vec::new(), sent: body.len(), body }
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn write(self, mut stream: TcpStream, head_only: bool) {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "HTTP/1.1 {} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.status,
            self.body.len()
        );
        // A client that hangs up early is its own affair.
        let _ = stream.write_all(head.as_bytes());
        if !head_only {
            let _ = stream.write_all(&self.body[..self.sent]);
        }
    }
}

fn image() -> ImageBuilder {
    ImageBuilder::new("app:1").layer(Layer::new().file("etc/which", 0o644, vec![b'x'; 3000]))
}

async fn pull(node: &Node, reference: &str, auth: Option<AuthConfig>) -> Result<String, Error> {
    let request = PullImage { reference: reference.to_owned(), auth, progress: None };
    node.runtime.pull_image(request).await
}

async fn runs(node: &Node, image: &str) {
    let mut config = script("main", "wc -c < /etc/which");
    config.image = image.to_owned();
    let sandbox = node.sandbox("main").await;
    let id = node.start(&sandbox, config).await;
    assert_eq!(exited(&*node.runtime, &id).await.exit_code, Some(0));
    skiff_runtime::Runtime::remove_pod_sandbox(&*node.runtime, &sandbox).await.unwrap();
}

#[test]
fn a_pulled_image_runs_and_is_not_fetched_again() {
    on_node(|node| async move {
        for packing in [Packing::Gzip, Packing::Zstd] {
            let registry = Registry::serve(&image(), packing, Manners::default());
            let name = registry.image();
            let id = pull(node, &name, None).await.unwrap();
            let found = node.runtime.image_status(&name).await.unwrap().unwrap();
            assert_eq!((&found.id, &found.repo_tags), (&id, &vec![name.clone()]));
            let by_digest = &found.repo_digests[0];
            assert!(by_digest.starts_with(name.trim_end_matches(":1")), "{by_digest}");
            runs(node, &name).await;
            let fetched = registry.requests("GET");
            pull(node, &name, None).await.unwrap();
            assert_eq!(registry.requests("GET"), fetched, "a HEAD is enough");
            // By the digest of the index, after the tag is gone.
            node.runtime.remove_image(&name).await.unwrap();
            let again = pull(node, by_digest, None).await.unwrap();
            assert_eq!(again, id);
            let found = node.runtime.image_status(by_digest).await.unwrap().unwrap();
            assert_eq!(found.repo_tags, [""; 0]);
            node.runtime.remove_image(&id).await.unwrap();
        }
    });
}

#[test]
fn a_download_that_breaks_off_is_resumed_where_it_ended() {
    on_node(|node| async move {
        let manners = Manners { breaks_off: true, stumbles: true, ..Manners::default() };
        let registry = Registry::serve(&image(), Packing::Zstd, manners);
        pull(node, &registry.image(), None).await.unwrap();
        assert_eq!(registry.requests("bytes="), 2, "{:?}", registry.log.lock().unwrap());
        runs(node, &registry.image()).await;
    });
}

#[test]
fn a_token_is_fetched_and_shown_to_the_registry_alone() {
    on_node(|node| async move {
        let manners = Manners { token_for: Some("dTpw"), redirects: true, ..Manners::default() };
        let registry = Registry::serve(&image(), Packing::Gzip, manners);
        for auth in [None, AuthConfig::from_base64("dTp3cm9uZw==")] {
            let refused = pull(node, &registry.image(), auth).await.unwrap_err();
            let Error::Pull { source: RegistryError::Denied { .. }, .. } = refused else {
                panic!("{refused}")
            };
            assert!(refused.to_string().contains("wrong password"), "{refused}");
        }
        pull(node, &registry.image(), AuthConfig::from_base64("dTpw")).await.unwrap();
        assert!(registry.requests("/elsewhere/") >= 3);
    });
}

#[test]
fn content_that_is_not_what_its_digest_says_leaves_nothing() {
    on_node(|node| async move {
        let before = node.runtime.list_images().await.unwrap();
        let manners = Manners { corrupts: true, ..Manners::default() };
        let registry = Registry::serve(&image(), Packing::Zstd, manners);
        let refused = pull(node, &registry.image(), None).await.unwrap_err();
        assert!(
            matches!(refused, Error::Pull { source: RegistryError::Mismatch { .. }, .. }),
            "{refused}"
        );
        assert_eq!(node.runtime.list_images().await.unwrap(), before);
    });
}

#[test]
fn a_mirror_is_asked_first_and_what_it_lacks_comes_from_the_registry() {
    on_node(|node| async move {
        let registry = Registry::serve(&image(), Packing::Gzip, Manners::default());
        let config = |endpoint: &str, rewrite: Value| {
            let mirrors = json!({"mirrors": {"example.invalid":
                {"endpoint": [endpoint], "rewrite": rewrite}}});
            std::fs::write(node.dir.join("registries.yaml"), mirrors.to_string()).unwrap();
        };
        let mirror = format!("http://127.0.0.1:{}", registry.port);
        config(&mirror, json!({"^mine/(.*)$": "team/$1"}));
        pull(node, "example.invalid/mine/app:1", None).await.unwrap();
        // What the mirror lacks is asked of the registry, which is not there.
        let failed = pull(node, "example.invalid/other:1", None).await.unwrap_err().to_string();
        assert!(failed.contains("cannot reach https://example.invalid/"), "{failed}");
        assert!(failed.contains("mirror: failed to resolve reference"), "{failed}");
        config("mirror", json!({}));
        let failed = pull(node, "example.invalid/mine/app:1", None).await.unwrap_err().to_string();
        assert!(failed.contains("must begin with https://"), "{failed}");
    });
}

#[test]
fn an_unknown_image_and_a_missing_registry_are_told_at_once() {
    on_node(|node| async move {
        let registry = Registry::serve(&image(), Packing::Plain, Manners::default());
        let unknown = format!("127.0.0.1:{}/team/app:2", registry.port);
        let failed = pull(node, &unknown, None).await.unwrap_err().to_string();
        assert!(failed.ends_with(&format!("{unknown}: not found")), "{failed}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let failed = pull(node, &format!("{nobody}/app:1"), None).await.unwrap_err().to_string();
        assert!(failed.contains("Connection refused"), "{failed}");
    });
}
