//! Network namespaces of a test's own: made under a unique name, without a route out, gone when the test ends.

#![allow(dead_code)] // Every test binary uses its own part of this.

pub mod api;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skiff_net::Namespace;

/// Declares a test that needs to make network namespaces. Without root it says that it did not run.
#[macro_export]
macro_rules! root_test {
    ($(#[$attribute:meta])* async fn $name:ident() $body:block) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: {} makes network namespaces, which needs root", stringify!($name));
                return;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async $body);
        }
    };
}

/// A named network namespace, deleted on drop.
pub struct TestNetns {
    name: String,
}

impl TestNetns {
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skiff-test-{}-{count}-{role}", std::process::id());
        nlink::netlink::namespace::create(&name).expect("make a network namespace");
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub fn open(&self) -> Namespace {
        Namespace::open(self.path()).expect("open a namespace just made")
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let _ = nlink::netlink::namespace::delete(&self.name);
    }
}

/// A directory of a test's own, removed on drop.
pub struct TestDir(pub PathBuf);

impl TestDir {
    pub fn new(test: &str) -> Self {
        Self(std::env::temp_dir().join(format!("skiff-net-{}-{test}", std::process::id())))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves TCP in `namespace`: every connection gets `<answer> <address of the peer>` and is closed.
pub fn serve_tcp(namespace: &Namespace, port: u16, answer: &str) {
    let bind = || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind in a namespace of our own")
    };
    let listener = namespace.run(bind).unwrap();
    let answer = answer.to_string();
    // The thread ends with the test process; it holds no more than a socket.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(format!("{answer} {peer}").as_bytes());
        }
    });
}

/// What a TCP connection from `namespace` is told, or why it failed.
pub fn ask_tcp(
    namespace: &Namespace,
    address: impl Into<Ipv4Addr>,
    port: u16,
) -> std::io::Result<String> {
    let target = SocketAddr::V4(SocketAddrV4::new(address.into(), port));
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    namespace.run(ask).unwrap()
}

/// Serves UDP in `namespace`: every datagram is answered with `answer`.
pub fn serve_udp(namespace: &Namespace, port: u16, answer: &str) {
    let socket =
        namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind")).unwrap();
    let answer = answer.to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    });
}

/// A UDP client that keeps its port, so that it stays one flow.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    pub fn new(namespace: &Namespace, address: impl Into<Ipv4Addr>, port: u16) -> Self {
        let target = SocketAddrV4::new(address.into(), port);
        let connect = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok::<_, std::io::Error>(socket)
        };
        Self(namespace.run(connect).unwrap().expect("make a UDP socket"))
    }

    pub fn ask(&self) -> std::io::Result<String> {
        self.0.send(b"?")?;
        let mut buffer = [0; 64];
        let length = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}
