//! Protobuf, transcoded by the schema graph: no generated types.
//!
//! Objects <-> `k8s\0` + `runtime.Unknown` around the kind's message; watch events as frames with
//! their length in front. Counterpart: `runtime/serializer/protobuf`. Custom resources have no
//! protobuf form. Invariant: no input panics.

mod read;
pub mod wire;
mod write;

use bytes::Bytes;
use serde_json::Value;

use crate::schema::{StructRef, StructSchema, struct_named, type_of_kind};
use wire::{Reader, Writer};

const MAGIC: &[u8] = b"k8s\0";

/// A body that is no message of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("empty data")]
    Empty,
    #[error("empty body")]
    EmptyBody,
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoMagic,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: illegal tag 0")]
    IllegalTag,
    #[error("unexpected EOF")]
    End,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: wrong wireType")]
    Mismatch,
    #[error("exceeded max depth")]
    Depth,
}

/// What the envelope says, and the message inside.
pub struct Envelope<'b> {
    pub api_version: String,
    pub kind: String,
    raw: &'b [u8],
}

impl<'b> Envelope<'b> {
    pub fn read(body: &'b [u8]) -> Result<Envelope<'b>, ProtoError> {
        if body.is_empty() {
            return Err(ProtoError::Empty);
        }
        let unknown = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
        if unknown.is_empty() {
            return Err(ProtoError::EmptyBody);
        }
        let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
        let mut reader = Reader(unknown);
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => envelope.read_type(read::message(payload)?)?,
                2 => envelope.raw = read::message(payload)?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, bytes: &[u8]) -> Result<(), ProtoError> {
        let mut reader = Reader(bytes);
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => self.api_version = read::text(payload)?,
                2 => self.kind = read::text(payload)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The message as a JSON object, zero scalars and all.
    pub fn object(&self, schema: &StructSchema) -> Result<Value, ProtoError> {
        read::structure(self.raw, schema, 0)
    }
}

/// Writes an object, list or Status by its own `apiVersion` and `kind`; `None` if there is no
/// protobuf form of it.
pub fn to_proto(object: &Value) -> Option<Bytes> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut message = Writer::default();
    match (api_version, kind) {
        ("meta.k8s.io/v1" | "meta.k8s.io/v1beta1", "PartialObjectMetadata") => {
            partial(&mut message, object)?;
        }
        ("meta.k8s.io/v1" | "meta.k8s.io/v1beta1", "PartialObjectMetadataList") => {
            partial_list(&mut message, object)?;
        }
        _ => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            // Lists of resources leave their version out.
            let version = if version.is_empty() { "v1" } else { version };
            let schema = schema_of(group, version, kind)?;
            write::structure(&mut message, object, &schema);
        }
    }
    let mut out = Writer(MAGIC.to_vec());
    out.message(1, |out| {
        out.bytes(1, api_version.as_bytes());
        out.bytes(2, kind.as_bytes());
    });
    out.bytes(2, &message.0);
    out.bytes(3, b"");
    out.bytes(4, b"");
    Some(Bytes::from(out.0))
}

/// One frame of a protobuf watch around an object that [`to_proto`] wrote.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let mut message = Writer::default();
    message.bytes(1, event.as_bytes());
    message.message(2, |out| out.bytes(1, object));
    let mut out = (message.0.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&message.0);
    Bytes::from(out)
}

fn schema_of(group: &str, version: &str, kind: &str) -> Option<StructRef> {
    type_of_kind(group, version, kind).filter(|schema| schema.proto.is_some())
}

fn partial(out: &mut Writer, object: &Value) -> Option<()> {
    let meta = struct_named("meta.v1.ObjectMeta")?;
    out.message(1, |out| write::structure(out, &object["metadata"], meta));
    Some(())
}

fn partial_list(out: &mut Writer, list: &Value) -> Option<()> {
    let head = struct_named("meta.v1.ListMeta")?;
    out.message(1, |out| write::structure(out, &list["metadata"], head));
    for item in list["items"].as_array()? {
        let mut inner = Writer::default();
        partial(&mut inner, item)?;
        out.bytes(2, &inner.0);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::codec::{Format, Target, decode};
    use crate::{default, kinds, mutation};

    fn round(group: &str, resource: &str, object: Value) -> Value {
        let kinds = kinds::builtin();
        let kind = kinds.get(group, "v1", resource).expect("served");
        let bytes = to_proto(&object).expect("has a protobuf form");
        decode(&bytes, Format::Protobuf, &Target::of(kind)).expect("reads back").object
    }

    /// Raw JSON lost its last digit, another one with each reading.
    #[test]
    fn floating_numbers_are_read_to_their_last_digit() {
        let text = r#"{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"x"},"data":9.99999299996e39,"revision":1}"#;
        let object: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(object["data"].as_f64(), "9.99999299996e39".parse().ok());
        assert_eq!(round("apps", "controllerrevisions", object.clone())["data"], object["data"]);
    }

    #[test]
    fn bytes_are_those_of_gogo() {
        let body = "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEkMKBwoFcHJvdG8SCQoFZW1wdHkSABIYCghmaWxlLnR4dBIMbGluZTEKbGluZTIKEgYKAWsSAXYaCwoDYmluEgQAAQL/GgAiAA==";
        let bytes = STANDARD.decode(body).expect("base64");
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("served");
        let object = decode(&bytes, Format::Protobuf, &Target::of(kind)).expect("a message").object;
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "proto"},
                "binaryData": {"bin": "AAEC/w=="}, "data": {"empty": "", "file.txt": "line1\nline2\n", "k": "v"}})
        );
        let written = to_proto(&object).expect("a message");
        let again = decode(&written, Format::Protobuf, &Target::of(kind)).expect("a message");
        assert_eq!(again.object, object);
    }

    #[test]
    fn objects_survive_the_round_trip() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "pods").expect("served");
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "creationTimestamp": "2001-01-01T00:00:00Z",
                "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}, "time": "2001-01-01T00:00:00Z"}]},
            "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m", "optional": false}}],
                "containers": [{"name": "c", "image": "i", "securityContext": {"runAsUser": 0},
                    "resources": {"limits": {"cpu": "500m"}}, "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 5}}]}});
        default::apply(&mut pod, kind);
        let mut read = round("", "pods", pod.clone());
        crate::codec::complete(&mut read, &kind.schema);
        assert_eq!(read, pod);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"holderIdentity": "me", "renewTime": "2001-01-01T00:00:01.000002Z", "leaseTransitions": 0}});
        let mut read = round("coordination.k8s.io", "leases", lease.clone());
        read["metadata"].as_object_mut().expect("a map").retain(|name, _| name == "name");
        assert_eq!(read["spec"], lease["spec"]);
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("served");
        let fault =
            |bytes: &[u8]| decode(bytes, Format::Protobuf, &Target::of(kind)).unwrap_err().message;
        let start = "the object provided is unrecognized (must be of type ConfigMap): ";
        assert_eq!(fault(b""), format!("{start}empty data (<empty>)"));
        assert_eq!(
            fault(&[0, 1, 2, 3, 4]),
            format!(
                "{start}provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (0001020304)"
            )
        );
        assert_eq!(
            fault(b"k8s\0garbage"),
            format!("{start}proto: illegal wireType 7 (6b38730067617262616765)")
        );
    }

    #[test]
    fn damaged_messages_never_panic() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "pods").expect("served");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let bytes = to_proto(&pod).expect("a message");
        mutation::each(&bytes, 20_000, |bytes| {
            drop(decode(bytes, Format::Protobuf, &Target::of(kind)))
        });
    }
}
