//! A container's environment.
//!
//! Consumes `envFrom`, `env`, the services of the namespace and the objects referred to, emits name-value pairs.
//! Counterpart: `makeEnvironmentVariables` of `pkg/kubelet/kubelet_pods.go` and `pkg/kubelet/envvars`.
//! Invariant: a later source of a name replaces an earlier one, and service variables replace nothing.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
        Secret, Service,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::expand::expand;
use skiff_api::scheduling::resources::{milli_value, value};

use crate::pod::desired::DesiredPod;

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EnvError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    UnsupportedField(String),
    #[error("unsupported container resource: {0}")]
    UnsupportedResource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("fileKeyRef of environment variable {0:?} is not supported by this node")]
    FileKeyRef(String),
}

/// What the environment may draw from. Objects that do not exist are absent.
pub struct EnvSources<'a> {
    pub pod: &'a DesiredPod,
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub services: Vec<Arc<Service>>,
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    pub pod_ips: &'a [IpAddr],
    /// Defaults of limits that are not set.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

pub fn environment(
    container: &Container,
    sources: &EnvSources<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let services = service_variables(sources);
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (name, value) in imported(from, sources)? {
            env.set(format!("{prefix}{name}"), value);
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(from)) => match referred(var, from, container, sources)? {
                Some(value) => value,
                None => continue,
            },
            (Some(text), _) if !text.is_empty() => {
                expand(text, |name| env.get(name).or_else(|| services.get(name).cloned()))
            }
            _ => String::new(),
        };
        env.set(var.name.clone(), value);
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.pairs)
}

/// Pairs in the order they first appeared.
#[derive(Default)]
struct Environment {
    pairs: Vec<(String, String)>,
    at: HashMap<String, usize>,
}

// === impl Environment ===

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.at.get(&name) {
            Some(&i) => self.pairs[i].1 = value,
            None => {
                self.at.insert(name.clone(), self.pairs.len());
                self.pairs.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.at.get(name).map(|&i| self.pairs[i].1.clone())
    }
}

// === references ===

fn imported(
    from: &k8s_openapi::api::core::v1::EnvFromSource,
    sources: &EnvSources<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    if let Some(r) = &from.config_map_ref {
        let data = sources.config_maps.get(&r.name).map(|m| m.data.clone().unwrap_or_default());
        return required(data, r.optional, "configmap", &r.name).map(|d| d.into_iter().collect());
    }
    if let Some(r) = &from.secret_ref {
        let data = sources.secrets.get(&r.name).map(|s| s.data.clone().unwrap_or_default());
        let data = required(data, r.optional, "secret", &r.name)?;
        return Ok(data.into_iter().map(|(k, v)| (k, text(&v))).collect());
    }
    Ok(Vec::new())
}

fn required<T: Default>(
    data: Option<T>,
    optional: Option<bool>,
    kind: &'static str,
    name: &str,
) -> Result<T, EnvError> {
    match data {
        Some(data) => Ok(data),
        None if optional == Some(true) => Ok(T::default()),
        None => Err(EnvError::NoObject { kind, name: name.into() }),
    }
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

/// The value a variable refers to; `None` when it is optional and absent.
fn referred(
    var: &EnvVar,
    from: &EnvVarSource,
    container: &Container,
    sources: &EnvSources<'_>,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &from.field_ref {
        return pod_field(field, sources).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_field(resource, container, sources.pod, sources.allocatable).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let map = sources.config_maps.get(&r.name);
        let value = map.map(|m| m.data.as_ref().and_then(|d| d.get(&r.key).cloned()));
        return keyed(value, r.optional, "ConfigMap", &r.name, &r.key, sources);
    }
    if let Some(r) = &from.secret_key_ref {
        let secret = sources.secrets.get(&r.name);
        let value = secret.map(|s| s.data.as_ref().and_then(|d| d.get(&r.key).map(text)));
        return keyed(value, r.optional, "Secret", &r.name, &r.key, sources);
    }
    if from.file_key_ref.is_some() {
        return Err(EnvError::FileKeyRef(var.name.clone()));
    }
    Ok(None)
}

/// `value`: outer `None` means no object, inner `None` means no key.
fn keyed(
    value: Option<Option<String>>,
    optional: Option<bool>,
    kind: &'static str,
    name: &str,
    key: &str,
    sources: &EnvSources<'_>,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional == Some(true) => Ok(None),
        Some(None) => {
            let namespace = sources.pod.key.namespace.clone();
            Err(EnvError::NoKey { kind, namespace, name: name.into(), key: key.into() })
        }
        None => {
            let kind = if kind == "Secret" { "secret" } else { "configmap" };
            Err(EnvError::NoObject { kind, name: name.into() })
        }
    }
}

fn pod_field(field: &ObjectFieldSelector, sources: &EnvSources<'_>) -> Result<String, EnvError> {
    let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let spec = sources.pod.spec();
    Ok(match field.field_path.as_str() {
        "spec.nodeName" => sources.node_name.to_owned(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.podIP" => first(sources.pod_ips),
        "status.podIPs" => list(sources.pod_ips),
        "status.hostIP" => first(sources.node_ips),
        "status.hostIPs" => list(sources.node_ips),
        path => {
            return metadata_field(path, sources.pod)
                .ok_or_else(|| EnvError::UnsupportedField(path.into()));
        }
    })
}

/// A field of the pod's metadata, as downward API volumes offer it too.
pub fn metadata_field(path: &str, pod: &DesiredPod) -> Option<String> {
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = subscript("metadata.labels['") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript("metadata.annotations['") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Some(pod.key.name.clone()),
        "metadata.namespace" => Some(pod.key.namespace.clone()),
        "metadata.uid" => Some(pod.key.uid.clone()),
        "metadata.labels" => Some(lines(&pod.labels())),
        "metadata.annotations" => Some(lines(&pod.annotations())),
        _ => None,
    }
}

fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// A request or limit of a container, in units of the divisor, rounded up.
pub fn resource_field(
    selector: &ResourceFieldSelector,
    container: &Container,
    pod: &DesiredPod,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, EnvError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => &pod.container(name).ok_or_else(|| EnvError::NoContainer(name.into()))?.spec,
        None => container,
    };
    let unsupported = || EnvError::UnsupportedResource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.clone().unwrap_or_default();
    let quantity = match list {
        "limits" => resources
            .limits
            .and_then(|l| l.get(name).cloned())
            .or_else(|| allocatable.get(name).cloned()),
        "requests" => resources.requests.and_then(|r| r.get(name).cloned()),
        _ => return Err(unsupported()),
    };
    let quantity = quantity.unwrap_or(Quantity("0".into()));
    let divisor = selector.divisor.clone().filter(|d| milli_value(d).is_some_and(|v| v > 0));
    let divisor = divisor.unwrap_or(Quantity("1".into()));
    let read = if name == "cpu" { milli_value } else { value };
    let (n, d) =
        (read(&quantity).ok_or_else(unsupported)?, read(&divisor).ok_or_else(unsupported)?.max(1));
    Ok((n / d + i64::from(n % d != 0)).to_string())
}

// === services ===

/// The variables of the namespace's services, and always of the API server's.
fn service_variables(sources: &EnvSources<'_>) -> BTreeMap<String, String> {
    let links = sources.pod.spec().enable_service_links.unwrap_or(true);
    let mut variables = BTreeMap::new();
    let named = |s: &Service, namespace: &str, name: &str| {
        s.metadata.namespace.as_deref() == Some(namespace)
            && s.metadata.name.as_deref() == Some(name)
    };
    let (master, others): (Vec<_>, Vec<_>) =
        sources.services.iter().partition(|s| named(s, "default", "kubernetes"));
    for service in master {
        add_service(&mut variables, service);
    }
    let here = Some(sources.pod.key.namespace.as_str());
    for service in others.into_iter().filter(|s| links && s.metadata.namespace.as_deref() == here) {
        add_service(&mut variables, service);
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let Some(name) = service.metadata.name.as_deref() else { return };
    let name = name.to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let url = |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".into());
    variables.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    variables.insert(format!("{name}_PORT"), url(&protocol(&first.protocol), first.port));
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            variables.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        let protocol = protocol(&port.protocol);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), ip.to_owned());
        variables.insert(prefix, url(&protocol, port.port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [container], "serviceAccountName": "sa"},
        });
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod")));
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"k": "v", "n": "2"}})).expect("a map");
        let secret: Secret =
            serde_json::from_value(json!({"data": {"pw": "c2VjcmV0"}})).expect("a secret");
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
        }))
        .expect("a service");
        let sources = EnvSources {
            pod: &pod,
            config_maps: [("cm".to_owned(), Arc::new(map))].into(),
            secrets: [("s".to_owned(), Arc::new(secret))].into(),
            services: vec![Arc::new(service)],
            node_name: "node",
            node_ips: &["192.0.2.1".parse().expect("an address")],
            pod_ips: &["10.0.0.7".parse().expect("an address")],
            allocatable: &[("cpu".to_owned(), Quantity("2".into()))].into(),
        };
        environment(&pod.containers[0].spec, &sources)
    }

    fn value_of(container: serde_json::Value, name: &str) -> Option<String> {
        check(container)
            .expect("an environment")
            .into_iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v)
    }

    #[test]
    fn every_source() {
        for (source, expected) in [
            (json!({"fieldRef": {"fieldPath": "metadata.name"}}), "p"),
            (json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), "web"),
            (json!({"fieldRef": {"fieldPath": "status.podIP"}}), "10.0.0.7"),
            (json!({"fieldRef": {"fieldPath": "status.hostIP"}}), "192.0.2.1"),
            (json!({"fieldRef": {"fieldPath": "spec.serviceAccountName"}}), "sa"),
            (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "v"),
            (json!({"secretKeyRef": {"name": "s", "key": "pw"}}), "secret"),
            (json!({"resourceFieldRef": {"resource": "limits.cpu"}}), "2"),
            (json!({"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}), "64"),
        ] {
            let container = json!({
                "name": "c", "resources": {"requests": {"memory": "64Mi"}},
                "env": [{"name": "X", "valueFrom": source}],
            });
            assert_eq!(value_of(container, "X").as_deref(), Some(expected));
        }
    }

    #[test]
    fn later_wins_and_references_expand() {
        let container = json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "A", "value": "$(P_k)-$(MY_DB_SERVICE_HOST)-$(NO)"}, {"name": "P_n", "value": "3"},
                    {"name": "MY_DB_SERVICE_PORT", "value": "mine"}],
        });
        let env: BTreeMap<_, _> = check(container).expect("an environment").into_iter().collect();
        assert_eq!(env["A"], "v-10.96.0.7-$(NO)");
        assert_eq!(env["P_n"], "3");
        assert_eq!(env["MY_DB_SERVICE_PORT"], "mine");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP"], "tcp://10.96.0.7:5432");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (source, message) in [
            (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
            (
                json!({"secretKeyRef": {"name": "s", "key": "no"}}),
                "couldn't find key no in Secret ns/s",
            ),
            (json!({"fieldRef": {"fieldPath": "spec.nope"}}), "unsupported fieldPath: spec.nope"),
        ] {
            let error = check(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}))
                .expect_err("an error");
            assert_eq!(error.to_string(), message);
        }
    }
}
