//! The real kubectl against the server halves: a server on loopback that knows one pod.
//!
//! Run by `cargo test -p skiff-streams -- --ignored` where kubectl is installed ($KUBECTL names another).

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skiff_streams::{CommandStatus, ForwardedConnection, RemoteCommandStreams};
use support::{Body, Spoken, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const BIG: usize = 64 << 20;
/// Whether kubectl may use WebSockets, and what it then speaks; else it speaks SPDY.
const EXEC: [(&str, &str); 2] =
    [("true", "websocket v5.channel.k8s.io"), ("false", "SPDY/3.1 v5.channel.k8s.io")];
const PORT_FORWARD: [(&str, &str); 2] =
    [("true", "websocket SPDY/3.1+portforward.k8s.io"), ("false", "SPDY/3.1 portforward.k8s.io")];

struct Cluster {
    address: String,
    spoken: Spoken,
    home: PathBuf,
}

#[tokio::test]
#[ignore = "needs kubectl"]
async fn exec_passes_input_output_and_exit_code() {
    let cluster = Cluster::start("exec").await;
    for (websockets, name) in EXEC {
        let check = async {
            let (code, out, err) = cluster.exec(websockets, "cat", b"hello\n").await;
            assert_eq!((code, out.as_slice(), err.as_str()), (0, &b"hello\n"[..], ""));
            let (code, out, err) = cluster.exec(websockets, "fail", b"").await;
            assert_eq!((code, out.len()), (7, 0));
            assert_eq!(err, "it failed\ncommand terminated with exit code 7\n");
            let (code, out, _) = cluster.exec(websockets, "big", b"").await;
            assert_eq!((code, out.len()), (0, BIG));
            let input = vec![b'x'; 5 << 20];
            let (code, out, _) = cluster.exec(websockets, "cat", &input).await;
            assert_eq!((code, out.len()), (0, input.len()));
            let (code, _, err) = cluster.exec(websockets, "missing", b"").await;
            assert_eq!(code, 1);
            assert!(err.contains("no such command"), "{err}");
        };
        within(120, check).await;
        assert_eq!(cluster.spoken(), [name]);
    }
}

#[tokio::test]
#[ignore = "needs kubectl"]
async fn port_forward_carries_many_connections() {
    let cluster = Cluster::start("port-forward").await;
    for (websockets, name) in PORT_FORWARD {
        let (mut child, port) = cluster.port_forward(websockets).await;
        let mut connections = Vec::new();
        for index in 0..100 {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            connections.push((index, stream));
        }
        let check = async {
            for (index, mut stream) in connections {
                let text = format!("connection {index} ").repeat(5000);
                let (mut read, mut write) = stream.split();
                let send = async {
                    write.write_all(text.as_bytes()).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut answer = String::new();
                let (_, got) = tokio::join!(send, read.read_to_string(&mut answer));
                got.unwrap();
                assert!(answer == format!("80:{text}"), "connection {index}");
            }
        };
        within(60, check).await;
        assert!(child.try_wait().unwrap().is_none(), "kubectl still forwards");
        child.kill().await.unwrap();
        assert_eq!(cluster.spoken(), [name]);
    }
}

/// `script` gives kubectl the terminal it wants.
#[tokio::test]
#[ignore = "needs kubectl"]
async fn a_terminal_tells_its_size() {
    let cluster = Cluster::start("terminal").await;
    for (websockets, _) in EXEC {
        let kubectl = cluster.kubectl(websockets);
        let program = kubectl.as_std().get_program().to_str().unwrap().to_owned();
        let exec = format!("{program} --server {} exec -it pod -- size", cluster.address);
        let in_terminal = format!("stty columns 101 rows 41; {exec}");
        let mut script = Command::new("script");
        script.args(["-qec", &in_terminal, "/dev/null"]).stdin(Stdio::piped());
        for (name, value) in kubectl.as_std().get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        let output = within(30, script.output()).await.expect("script starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("101 columns, 41 rows"), "{said}");
        assert!(output.status.success(), "{said}");
    }
}

// === impl Cluster ===

impl Cluster {
    async fn start(name: &str) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let spoken = Spoken::default();
        let heard = spoken.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, heard.clone()));
            }
        });
        let home =
            std::env::temp_dir().join(format!("skiff-streams-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        Cluster { address, spoken, home }
    }

    /// The protocols spoken since the last question, each named once.
    fn spoken(&self) -> Vec<String> {
        let mut names = std::mem::take(&mut *self.spoken.lock().unwrap());
        names.dedup();
        names
    }

    fn kubectl(&self, websockets: &str) -> Command {
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = Command::new(kubectl);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .args(["--server", &self.address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn exec(&self, websockets: &str, what: &str, input: &[u8]) -> (i32, Vec<u8>, String) {
        let mut command = self.kubectl(websockets);
        let mut child =
            command.args(["exec", "-i", "pod", "--", what]).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = tokio::spawn(async move {
            // A command that does not read its input may end first.
            let _ = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.unwrap();
        feed.await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), output.stdout, stderr)
    }

    async fn port_forward(&self, websockets: &str) -> (Child, u16) {
        let mut command = self.kubectl(websockets);
        let mut child = command
            .args(["port-forward", "--address", "127.0.0.1", "pod", ":80"])
            .spawn()
            .expect("kubectl starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = within(20, lines.next_line()).await.unwrap();
        let line = line.expect("kubectl says where it listens");
        // "Forwarding from 127.0.0.1:40123 -> 80"
        let address = line.split_whitespace().nth(2).unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        // What it says about each connection must not fill its pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (child, port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

async fn serve(stream: TcpStream, spoken: Spoken) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = match request.uri().path() {
            path if path.ends_with("/exec") => {
                let query = request.uri().query().unwrap_or_default();
                let what = query.split('&').find_map(|pair| pair.strip_prefix("command="));
                let what = what.unwrap_or_default().to_owned();
                let command = support::exec(move |streams| run(what.clone(), streams));
                support::answer(request, &command.recording(&spoken))
            }
            path if path.ends_with("/portforward") => {
                support::answer(request, &support::forward(echo).recording(&spoken))
            }
            path => json_answer(path),
        };
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn run(what: String, streams: RemoteCommandStreams) {
    let RemoteCommandStreams { stdin, stdout, stderr, resize, status } = streams;
    let mut stdout = stdout.unwrap();
    let ended = match what.as_str() {
        "cat" => {
            tokio::io::copy(&mut stdin.unwrap(), &mut stdout).await.unwrap();
            CommandStatus::Success
        }
        "big" => {
            stdout.write_all(&vec![b'b'; BIG]).await.unwrap();
            CommandStatus::Success
        }
        "fail" => {
            stderr.unwrap().write_all(b"it failed\n").await.unwrap();
            CommandStatus::ExitCode(7)
        }
        "size" => {
            let size = resize.unwrap().recv().await.unwrap();
            let text = format!("{} columns, {} rows\r\n", size.width, size.height);
            stdout.write_all(text.as_bytes()).await.unwrap();
            CommandStatus::Success
        }
        _ => CommandStatus::InternalError("no such command".to_owned()),
    };
    status.finish(ended).await.unwrap();
}

async fn echo(connection: ForwardedConnection) {
    let (port, mut data) = (connection.port, connection.data);
    let mut input = Vec::new();
    data.read_to_end(&mut input).await.unwrap();
    data.write_all(format!("{port}:").as_bytes()).await.unwrap();
    data.write_all(&input).await.unwrap();
    data.shutdown().await.unwrap();
}

/// The little discovery kubectl needs, and the pod.
fn json_answer(path: &str) -> http::Response<Body> {
    let (code, value): (u16, Value) = match path {
        "/api" => (200, json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        "/api/v1" => (
            200,
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                 "verbs": ["get"], "shortNames": ["po"]}
            ]}),
        ),
        "/api/v1/namespaces/default/pods/pod" => (
            200,
            json!({"kind": "Pod", "apiVersion": "v1",
                "metadata": {"name": "pod", "namespace": "default"},
                "spec": {"containers": [{"name": "main", "image": "image"}]},
                "status": {"phase": "Running"}}),
        ),
        _ => (404, json!({"kind": "Status", "status": "Failure", "code": 404})),
    };
    http::Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Full::from(value.to_string()).map_err(|never| match never {}).boxed())
        .unwrap()
}
