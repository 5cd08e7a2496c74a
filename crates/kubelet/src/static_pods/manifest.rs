//! A manifest file as the pod of this node that it describes.
//!
//! YAML or JSON of a `v1.Pod` -> a complete, defaulted and validated [`Pod`]. Counterpart: `tryDecodeSinglePod` and
//! `applyDefaults` of `pkg/kubelet/config/common.go`.
//! Invariant: the same content of the same file on the same node has the same uid, whenever it is read.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::{
    KindDef,
    codec::{Format, Target, decode},
    default,
    field::ErrorList,
    kinds::api_reference,
    meta::meta,
    validation::validate_meta,
};

use super::{HASH, SOURCE};

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0}")]
    Unreadable(String),
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// Where a manifest lies, which is part of who its pod is.
pub struct Origin<'a> {
    pub node: &'a str,
    pub file: &'a Path,
}

pub fn pod(text: &[u8], kind: &KindDef, origin: &Origin<'_>) -> Result<Pod, ManifestError> {
    let unreadable = |error: &dyn ToString| ManifestError::Unreadable(error.to_string());
    // JSON is YAML too.
    let decoded = decode(text, Format::Yaml, &Target::of(kind));
    let mut object = decoded.map_err(|status| unreadable(&status.message))?.object;
    if meta(&object).name().is_empty() {
        return Err(ManifestError::NoName);
    }
    place(&mut object, origin);
    default::apply(&mut object, kind);
    let mut errors = ErrorList::default();
    validate_meta(kind, &object, &mut errors);
    kind.strategy.validate(&object, &mut errors);
    if !errors.is_empty() {
        let faults: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        return Err(ManifestError::Invalid(faults.join(", ")));
    }
    if let Some(resource) = api_reference(&object) {
        return Err(ManifestError::Reference(resource));
    }
    serde_json::from_value(object).map_err(|error| unreadable(&error))
}

/// Makes it this node's: name, uid and node, and nothing that others decide.
fn place(object: &mut Value, origin: &Origin<'_>) {
    let uid = match meta(object).uid() {
        "" => hash(object, origin),
        given => given.to_owned(),
    };
    let name = format!("{}-{}", meta(object).name(), origin.node.to_lowercase());
    let namespace = match meta(object).namespace() {
        "" => "default",
        given => given,
    }
    .to_owned();
    let metadata = &mut object["metadata"];
    metadata["name"] = name.into();
    metadata["namespace"] = namespace.into();
    metadata["uid"] = uid.clone().into();
    metadata["creationTimestamp"] = json!(Timestamp::now().strftime("%FT%TZ").to_string());
    let annotations = &mut metadata["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[HASH] = uid.into();
    annotations[SOURCE] = "file".into();
    annotations["kubernetes.io/config.seen"] = Timestamp::now().to_string().into();
    let spec = &mut object["spec"];
    spec["nodeName"] = origin.node.into();
    // Troubles of the node do not turn it out.
    let bears_all = json!({ "operator": "Exists", "effect": "NoExecute" });
    match spec["tolerations"].as_array_mut() {
        Some(tolerations) if tolerations.contains(&bears_all) => {}
        Some(tolerations) => tolerations.push(bears_all),
        None => spec["tolerations"] = json!([bears_all]),
    }
    object["status"] = json!({ "phase": "Pending" });
}

/// 128 bits of FNV-1a, in hexadecimal.
fn hash(object: &Value, origin: &Origin<'_>) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let text = format!("{object}host:{}file:{}", origin.node, origin.file.display());
    let hash =
        text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, file: &str) -> Result<Pod, String> {
        let kinds = skiff_api::kinds::builtin();
        let kind = kinds.get("", "v1", "pods").expect("pods are built in");
        let origin = Origin { node: "node-1", file: Path::new(file) };
        pod(text.as_bytes(), kind, &origin).map_err(|error| error.to_string())
    }

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = read(WEB, "/m/web.yaml").expect("it is good");
        let (meta, spec) = (&pod.metadata, pod.spec.as_ref().expect("it has one"));
        assert_eq!(meta.name.as_deref(), Some("web-node-1"));
        assert_eq!(meta.namespace.as_deref(), Some("default"));
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"), "it is defaulted");
        let annotations = meta.annotations.as_ref().expect("it has some");
        assert_eq!(annotations.get(HASH), meta.uid.as_ref());
        assert_eq!(annotations[SOURCE], "file");
        let effects = spec.tolerations.iter().flatten().map(|t| t.effect.as_deref());
        assert_eq!(effects.collect::<Vec<_>>(), [Some("NoExecute")]);
    }

    #[test]
    fn its_uid_is_its_content_in_its_place() {
        let uid = |text: &str, file| read(text, file).expect("it is good").metadata.uid;
        let first = uid(WEB, "/m/web.yaml");
        assert_eq!(first.as_ref().map(String::len), Some(32));
        assert_eq!(uid(WEB, "/m/web.yaml"), first);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},
            "spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        assert_eq!(uid(json, "/m/web.yaml"), first, "JSON says the same");
        assert_ne!(uid(WEB, "/m/other.yaml"), first);
        assert_ne!(uid(&WEB.replace("image: i", "image: j"), "/m/web.yaml"), first);
    }

    #[test]
    fn what_a_node_cannot_run_by_itself_is_refused() {
        let refused = |text: &str| read(text, "/m/web.yaml").expect_err("it is not good");
        assert_eq!(
            refused(&WEB.replace("{name: web}", "{}")),
            "invalid pod: name is needed for the pod"
        );
        assert_eq!(
            refused(&WEB.replace("name: c", "name: C")),
            "invalid pod: spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
             'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        let secret = "spec: {volumes: [{name: v, secret: {secretName: s}}], containers";
        assert_eq!(
            refused(&WEB.replace("spec: {containers", secret)),
            "static pods may not reference secrets"
        );
        assert!(refused("kind: Service\napiVersion: v1").contains("Service"));
        assert!(refused("{").contains("yaml"), "{}", refused("{"));
    }
}
