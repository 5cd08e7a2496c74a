//! Exec, attach and dial: streams in and out of a running container.

use std::time::{Duration, Instant};

use skiff_runtime::{AttachRequest, Error, ExecRequest, StreamSession, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Node, content, eventually, exited, on_both, on_node, script};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn sleeper(node: &Node) -> (String, String) {
    let sandbox = node.sandbox("exec").await;
    let id = node.start(&sandbox, script("main", "sleep 1000")).await;
    (sandbox, id)
}

#[test]
fn exec_sync_separates_streams_and_reports_the_code() {
    on_both(|node| async move {
        let (_, id) = sleeper(node).await;
        let output = node.exec(&id, "echo out; echo err >&2; exit 5").await;
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(output.exit_code, 5);
        // More than any pipe holds, so somebody must be reading.
        assert_eq!(node.output(&id, "yes | head -c 1000000 | wc -c").await.trim(), "1000000");
        assert_eq!(node.exec(&id, "yes | head -c 1000000").await.stdout.len(), 1_000_000);
    });
}

#[test]
fn exec_failures_are_told_apart() {
    on_node(|node| async move {
        let (_, id) = sleeper(node).await;
        match node.runtime.exec_sync(&id, &words(&["no-such"]), None).await {
            Err(Error::ExecFailed { reason, .. }) => {
                assert_eq!(reason, r#"exec: "no-such": executable file not found in $PATH"#);
            }
            other => panic!("{other:?}"),
        }
        let before = Instant::now();
        let limit = Some(Duration::from_millis(200));
        let late = node.runtime.exec_sync(&id, &words(&["sleep", "30"]), limit).await;
        assert!(matches!(late, Err(Error::ExecTimeout { .. })), "{late:?}");
        assert!(before.elapsed() < Duration::from_secs(5));
        eventually("the kill of the late exec", || !running_in(node, "sleep\u{0}30")).await;

        node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
        let over = node.runtime.exec_sync(&id, &words(&["true"]), None).await;
        assert!(matches!(over, Err(Error::WrongState { .. })), "{over:?}");
        let unknown = node.runtime.exec_sync("nobody", &words(&["true"]), None).await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    });
}

fn running_in(node: &Node, command: &str) -> bool {
    let group = node.cgroup_dirs().into_iter().next().unwrap().join("kubepods/podexec");
    let groups = std::fs::read_dir(group).into_iter().flatten().flatten();
    let lists =
        groups.filter_map(|group| std::fs::read_to_string(group.path().join("cgroup.procs")).ok());
    let pids: Vec<String> =
        lists.flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().any(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains(command))
    })
}

#[test]
fn exec_streams_both_ways() {
    on_both(|node| async move {
        let (_, id) = sleeper(node).await;
        let command = words(&["sh", "-c", "cat; echo done >&2; exit 9"]);
        let request = ExecRequest { command, stdin: true, stdout: true, stderr: true, tty: false };
        let StreamSession { stdin, stdout, stderr, exit, .. } =
            node.runtime.exec(&id, request).await.unwrap();
        let mut stdin = stdin.unwrap();
        stdin.write_all(b"through the pipe").await.unwrap();
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        stdout.unwrap().read_to_string(&mut out).await.unwrap();
        stderr.unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!(
            (out.as_str(), err.as_str(), exit.await.unwrap()),
            ("through the pipe", "done\n", 9)
        );
    });
}

#[test]
fn exec_with_a_terminal_has_a_size_and_a_hangup() {
    on_node(|node| async move {
        let (_, id) = sleeper(node).await;
        let command = words(&["sh", "-c", "tty; read line; stty size; echo got $line"]);
        let request = ExecRequest { command, stdin: true, stdout: true, stderr: false, tty: true };
        let session = node.runtime.exec(&id, request).await.unwrap();
        session.terminal.as_ref().unwrap().resize(TerminalSize { width: 132, height: 43 }).unwrap();
        session.stdin.unwrap().write_all(b"hello\n").await.unwrap();
        let mut out = String::new();
        session.stdout.unwrap().read_to_string(&mut out).await.unwrap();
        for expected in ["/dev/pts/0\r\n", "43 132\r\n", "got hello\r\n"] {
            assert!(out.contains(expected), "{expected:?} in {out:?}");
        }
        assert_eq!(session.exit.await.unwrap(), 0);

        // Nobody at the terminal any more: the shell gets a hangup.
        let command = words(&["sh"]);
        let request = ExecRequest { command, stdin: true, stdout: true, stderr: false, tty: true };
        let StreamSession { stdin, stdout, terminal, exit, .. } =
            node.runtime.exec(&id, request).await.unwrap();
        drop((stdin, stdout, terminal));
        assert_eq!(exit.await.unwrap(), 129);
    });
}

#[test]
fn attach_joins_output_and_input() {
    on_both(|node| async move {
        let sandbox = node.sandbox("attach").await;
        let mut config =
            script("main", "while read line; do echo $line; echo e$line >&2; done; exit 6");
        (config.stdin, config.stdin_once) = (true, true);
        let id = node.start(&sandbox, config).await;
        let request = AttachRequest { stdin: true, stdout: true, stderr: true, tty: false };
        let StreamSession { stdin, stdout, stderr, exit, .. } =
            node.runtime.attach(&id, request).await.unwrap();
        let mut stdin = stdin.unwrap();
        stdin.write_all(b"one\ntwo\n").await.unwrap();
        // With stdin_once the first client's end is everybody's.
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        stdout.unwrap().read_to_string(&mut out).await.unwrap();
        stderr.unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!(
            (out.as_str(), err.as_str(), exit.await.unwrap()),
            ("one\ntwo\n", "eone\netwo\n", 6)
        );
        let log = node.runtime.container_status(&id).await.unwrap().log_path;
        assert!(content(&log).contains("one\n"));
    });
}

#[test]
fn attach_to_a_terminal_container() {
    on_node(|node| async move {
        let sandbox = node.sandbox("ttymain").await;
        let mut config = script("main", "read line; stty size; echo got $line; exit 4");
        (config.stdin, config.tty) = (true, true);
        let id = node.start(&sandbox, config).await;
        let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: true };
        let session = node.runtime.attach(&id, request).await.unwrap();
        session.terminal.as_ref().unwrap().resize(TerminalSize { width: 90, height: 30 }).unwrap();
        session.stdin.unwrap().write_all(b"hi\n").await.unwrap();
        let mut out = String::new();
        session.stdout.unwrap().read_to_string(&mut out).await.unwrap();
        assert!(out.contains("30 90\r\n") && out.contains("got hi\r\n"), "{out:?}");
        let status = exited(&*node.runtime, &id).await;
        assert_eq!(status.exit_code, Some(4));
        assert!(content(&status.log_path).contains("got hi"));
    });
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    on_both(|node| async move {
        let sandbox = node.sandbox("slow").await;
        let text = "read go; yes 0123456789abcdef | head -c 4000000; echo; echo end";
        let mut config = script("main", text);
        config.stdin = true;
        let id = node.start(&sandbox, config).await;
        let request = AttachRequest { stdin: true, stdout: true, stderr: true, tty: false };
        let mut lazy = node.runtime.attach(&id, request).await.unwrap();
        lazy.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
        let status = exited(&*node.runtime, &id).await;
        assert!(content(&status.log_path).ends_with("end\n"));
    });
}

#[test]
fn dial_reaches_a_port_inside_the_pod_only() {
    on_both(|node| async move {
        let sandbox = node.sandbox("dial").await;
        let id =
            node.start(&sandbox, script("main", "echo hello | nc -l -p 7777; sleep 1000")).await;
        let mut connected = None;
        for _ in 0..200 {
            match node.runtime.dial(&sandbox, 7777).await {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let mut text = String::new();
        connected.expect("a connection").read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello\n");
        let refused = node.runtime.dial(&sandbox, 7778).await;
        assert!(
            matches!(&refused, Err(Error::Network { reason, .. }) if reason.contains("refused")),
            "{refused:?}"
        );
        assert!(std::net::TcpStream::connect(("127.0.0.1", 7777)).is_err());
        node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    });
}
