//! The seam to the pod network: what is attached, when, and that it is always given back.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use skiff_runtime::{
    Attachment, Error, NamespaceMode, PodSandboxState, PortMapping, Protocol, Runtime,
    SandboxNetwork,
};

use crate::fixture::on_node;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 7));

/// Writes down what it is asked, and whether the namespace was there.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<(&'static str, bool)>>,
    ports: Mutex<Vec<PortMapping>>,
    broken: bool,
}

impl Recorder {
    fn record(&self, what: &'static str, attachment: &Attachment) {
        self.calls.lock().unwrap().push((what, attachment.netns.exists()));
    }

    fn calls(&self) -> Vec<(&'static str, bool)> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl SandboxNetwork for Recorder {
    async fn attach(&self, attachment: &Attachment) -> io::Result<Vec<IpAddr>> {
        self.record("attach", attachment);
        self.ports.lock().unwrap().clone_from(&attachment.port_mappings);
        if self.broken { Err(io::Error::other("no address is left")) } else { Ok(vec![ADDRESS]) }
    }

    async fn detach(&self, attachment: &Attachment) -> io::Result<()> {
        self.record("detach", attachment);
        Ok(())
    }
}

#[test]
fn a_sandbox_is_attached_to_a_living_namespace_and_detached_from_it() {
    on_node(|node| async move {
        let network = Arc::new(Recorder::default());
        let runtime = node.reopen_with(network.clone()).await;
        let mut config = node.sandbox_config("wired");
        let mapping = PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: None,
        };
        config.port_mappings = vec![mapping.clone()];
        let sandbox = runtime.run_pod_sandbox(config).await.unwrap();
        assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().ips, [ADDRESS]);
        assert_eq!(*network.ports.lock().unwrap(), [mapping]);
        let next = node.reopen_with(network.clone()).await;
        assert_eq!(
            next.pod_sandbox_status(&sandbox).await.unwrap().ips,
            [ADDRESS],
            "addresses outlive the daemon"
        );
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(network.calls()[..2], [("attach", true), ("detach", true)]);
    });
}

#[test]
fn a_network_that_fails_fails_the_sandbox_and_leaves_nothing() {
    on_node(|node| async move {
        let network = Arc::new(Recorder { broken: true, ..Recorder::default() });
        let runtime = node.reopen_with(network.clone()).await;
        let error = runtime.run_pod_sandbox(node.sandbox_config("unwired")).await.unwrap_err();
        assert!(
            matches!(&error, Error::Network { reason, .. } if reason == "no address is left"),
            "{error}"
        );
        assert_eq!(network.calls(), [("attach", true), ("detach", true)]);
        assert_eq!(fs::read_dir(node.dir.join("root/sandboxes")).unwrap().count(), 0);
        let groups = || node.cgroup_dirs().into_iter().map(|dir| dir.join("kubepods/podunwired"));
        assert!(groups().all(|dir| !dir.exists()));
        crate::fixture::eventually("the end of its shim", || {
            node.cgroup_dirs().iter().all(|dir| {
                fs::read_to_string(dir.join("shims/cgroup.procs")).unwrap_or_default().is_empty()
            })
        })
        .await;
    });
}

#[test]
fn the_nodes_network_is_not_attached() {
    on_node(|node| async move {
        let network = Arc::new(Recorder::default());
        let runtime = node.reopen_with(network.clone()).await;
        let mut config = node.sandbox_config("hostnet");
        config.linux.namespaces.network = NamespaceMode::Node;
        let sandbox = runtime.run_pod_sandbox(config).await.unwrap();
        let status = runtime.pod_sandbox_status(&sandbox).await.unwrap();
        assert_eq!((status.state, status.ips.as_slice()), (PodSandboxState::Ready, &[][..]));
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert!(network.calls().is_empty());
    });
}
