//! Replies -> responses, in the representation the client negotiated.
//!
//! JSON passes stored bytes on; YAML, protobuf, Tables and metadata-only answers look inside. Large answers are
//! compressed for clients that accept it. Counterpart: `endpoints/handlers/responsewriters`.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use skiff_api::codec::{self, Format, ListHead, decode_stored};
use skiff_api::selector::value_at;
use skiff_api::table::{self, IncludeObject};
use skiff_api::{KindDef, Reason, Status};

use crate::call::Call;
use crate::list_body::Pieces;
use crate::negotiate::{Media, MetaVersion, Shape};
use crate::reply::{self, Body, List, Reply, with_type};
use crate::subresources::scale;
use crate::verbs::watch::WatchEvent;

/// Smaller answers are not worth compressing.
const GZIP_FROM: usize = 128 * 1024;

pub async fn response(
    call: &Call,
    media: Option<Media>,
    reply: Reply,
) -> Result<Response<Body>, Status> {
    let (code, bytes, media) = match reply {
        Reply::Response(response) => return Ok(response),
        Reply::Value { code, value } => {
            let shape = media.map(|media| media.shape);
            let value = match (shape, value["kind"].as_str()) {
                (Some(Shape::Table(version)), Some("Scale")) => {
                    let now = skiff_api::time::now();
                    let mut table = scale::table(&value, include_object(call)?, now);
                    at_version(&mut table, version);
                    table
                }
                _ => value,
            };
            let media = media.map_or(Media::JSON, |media| Media { shape: Shape::AsIs, ..media });
            (code, written(media, Bytes::from(value.to_string()), None)?, media)
        }
        Reply::Object { code, kind, bytes } => {
            let media = media.ok_or_else(Media::not_acceptable)?;
            (code, object(media, &kind, bytes, call)?, media)
        }
        Reply::List(list) => {
            let media = media.ok_or_else(Media::not_acceptable)?;
            if media.is_stored_form() {
                return Ok(plain_list(call, media, Pieces::of(&list)));
            }
            (StatusCode::OK, collection(media, list, call)?, media)
        }
    };
    let response = with_type(code, media.content_type(), bytes.clone());
    Ok(match is_compressed(call, bytes.len()) {
        true => compressed(response, |encoder| encoder.write_all(&bytes)),
        false => response,
    })
}

/// A list in the form it is stored in: its items are passed on as they are.
fn plain_list(call: &Call, media: Media, pieces: Pieces) -> Response<Body> {
    let mut response = with_type(StatusCode::OK, media.content_type(), Bytes::new());
    match is_compressed(call, pieces.len()) {
        true => compressed(response, |encoder| pieces.write_to(encoder)),
        false => {
            *response.body_mut() = pieces.into_body();
            response
        }
    }
}

fn object(media: Media, kind: &Arc<KindDef>, bytes: Bytes, call: &Call) -> Result<Bytes, Status> {
    let bytes = if call.lean { without_owners(bytes) } else { bytes };
    match media.shape {
        Shape::AsIs => written(media, bytes, Some(kind)),
        Shape::Partial(version) => written(media, partial(kind, &bytes, version)?, None),
        Shape::Table(version) => written(media, table(kind, &[bytes], call, None, version)?, None),
        Shape::PartialList(_) if kind.custom => {
            Err(Status::new(500, Reason::Unknown, "content is not a list"))
        }
        Shape::PartialList(_) => Err(unlike(
            "you requested PartialObjectMetadataList, but the requested object is not a list",
            &codec::go_object(kind),
        )),
    }
}

fn collection(media: Media, list: List, call: &Call) -> Result<Bytes, Status> {
    match media.shape {
        Shape::AsIs => written(media, list_bytes(&list), Some(&list.kind)),
        Shape::PartialList(version) => {
            let items: Result<Vec<Bytes>, Status> =
                list.items.iter().map(|item| partial(&list.kind, item, version)).collect();
            let items = items?;
            let head = ListHead {
                api_version: version.api_version(),
                kind: "PartialObjectMetadataList",
                custom: false,
                ..head_of(&list)
            };
            let bytes = codec::list_json(&head, items.iter().map(|item| &item[..]));
            written(media, if items.is_empty() { with_null_items(&bytes) } else { bytes }, None)
        }
        Shape::Table(version) => {
            written(media, table(&list.kind, &list.items, call, Some(&list), version)?, None)
        }
        Shape::Partial(_) => Err(unlike(
            "you requested PartialObjectMetadata, but the requested object is a list",
            &format!("{}List", codec::go_object(&list.kind)),
        )),
    }
}

/// A list was wanted where there is an object, or the other way round.
fn unlike(why: &str, found: &str) -> Status {
    Status::new(406, Reason::NotAcceptable, format!("{why} ({found})"))
}

pub fn head_of(list: &List) -> ListHead<'_> {
    ListHead {
        api_version: "",
        kind: &list.kind.list_kind,
        resource_version: &list.resource_version,
        continue_token: &list.continue_token,
        remaining: list.remaining,
        custom: list.kind.custom,
    }
}

/// The whole list, for those who look into it.
pub fn list_bytes(list: &List) -> Bytes {
    Pieces::of(list).joined()
}

/// How upstream writes a metadata list without items.
fn with_null_items(list: &[u8]) -> Bytes {
    let head = list.strip_suffix(b"[]}").unwrap_or(list);
    [head, b"null}"].concat().into()
}

/// `metav1.PartialObjectMetadata`: an object without anything of its own. Metadata of which nothing is hidden is passed on
/// as it stands, as the garbage collector and many a controller watch whole clusters this way.
fn partial(kind: &KindDef, object: &[u8], version: MetaVersion) -> Result<Bytes, Status> {
    let metadata = match kind.strategy.metadata_hides() {
        [] => Cow::Borrowed(value_at(object, "/metadata").unwrap_or(b"{}")),
        _ => {
            let shown = table::partial(kind, &decode_stored(object)?);
            Cow::Owned(shown["metadata"].to_string().into_bytes())
        }
    };
    let version = version.api_version();
    let head = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":"#);
    Ok([head.as_bytes(), &*metadata, b"}"].concat().into())
}

/// An object without its `managedFields`, if it is written as what is stored is.
fn without_owners(object: Bytes) -> Bytes {
    const KEY: &[u8] = br#","managedFields":"#;
    let cut = value_at(&object, "/metadata/managedFields").and_then(|owners| {
        let begin = owners.as_ptr() as usize - object.as_ptr() as usize;
        let before = object[..begin].strip_suffix(KEY)?;
        Some([before, &object[begin + owners.len()..]].concat())
    });
    cut.map_or(object, Bytes::from)
}

fn table(
    kind: &KindDef,
    items: &[Bytes],
    call: &Call,
    list: Option<&List>,
    version: MetaVersion,
) -> Result<Bytes, Status> {
    let include = include_object(call)?;
    let objects: Vec<Value> =
        items.iter().map(|item| decode_stored(item)).collect::<Result<_, _>>()?;
    let head = match (list, objects.first()) {
        (Some(list), _) => head_value(list),
        (None, Some(object)) => table::head_of_object(object),
        (None, None) => json!({}),
    };
    let mut value = table::table(kind, &objects, head, include, true, skiff_api::time::now());
    at_version(&mut value, version);
    Ok(Bytes::from(value.to_string()))
}

/// A Table and the metadata in its rows, at another version of their group.
fn at_version(table: &mut Value, version: MetaVersion) {
    if version == MetaVersion::V1 {
        return;
    }
    let rows = table["rows"].as_array_mut().into_iter().flatten();
    for object in rows.filter_map(|row| row.get_mut("object")) {
        if object["kind"] == "PartialObjectMetadata" {
            object["apiVersion"] = version.api_version().into();
        }
    }
    table["apiVersion"] = version.api_version().into();
}

fn head_value(list: &List) -> Value {
    let mut head = json!({ "resourceVersion": list.resource_version });
    if !list.continue_token.is_empty() {
        head["continue"] = list.continue_token.clone().into();
    }
    if let Some(remaining) = list.remaining {
        head["remainingItemCount"] = remaining.into();
    }
    head
}

fn include_object(call: &Call) -> Result<IncludeObject, Status> {
    let text = call.query.text("includeObject");
    IncludeObject::parse(text)
        .ok_or_else(|| {
            Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {text:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))
        })
}

/// JSON bytes in the format that was asked for.
fn written(media: Media, json: Bytes, _kind: Option<&Arc<KindDef>>) -> Result<Bytes, Status> {
    match media.format {
        Format::Json if media.pretty => Ok(codec::to_json_pretty(&decode_stored(&json)?)),
        Format::Json => Ok(json),
        Format::Yaml => Ok(codec::to_yaml(&decode_stored(&json)?)),
        Format::Protobuf => {
            codec::to_proto(&decode_stored(&json)?).ok_or_else(Media::not_acceptable)
        }
    }
}

/// A refusal, in a representation the client understands.
pub fn refusal(status: &Status, media: Media) -> Response<Body> {
    let plain = reply::error(status);
    if media.format == Format::Json && !media.pretty {
        return plain;
    }
    match written(media, Bytes::from(status.to_value().to_string()), None) {
        Ok(bytes) => {
            let (mut parts, _) = plain.into_parts();
            parts
                .headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
            Response::from_parts(parts, reply::full(bytes))
        }
        Err(_) => plain,
    }
}

fn is_compressed(call: &Call, length: usize) -> bool {
    let accepts = |coding: &str| coding.trim().starts_with("gzip");
    length >= GZIP_FROM && call.header(header::ACCEPT_ENCODING).split(',').any(accepts)
}

/// The response with what `write` writes as its compressed body.
fn compressed(
    response: Response<Body>,
    write: impl FnOnce(&mut GzEncoder<Vec<u8>>) -> std::io::Result<()>,
) -> Response<Body> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = write(&mut encoder).and_then(|()| encoder.finish());
    let packed = packed.expect("writing to memory does not fail");
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, reply::full(packed.into()))
}

/// The representations of a batch of events that watches share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum View {
    Json,
    Protobuf,
    Metadata,
    MetadataBeta,
    /// The lean ones are for typed clients of this process.
    Lean,
    LeanMetadata,
}

/// Frames for one watch, in its representation.
pub struct EventEncoder {
    media: Media,
    lean: bool,
    kind: Arc<KindDef>,
    include: IncludeObject,
    /// A watch names its columns once.
    columns_sent: bool,
}

impl EventEncoder {
    pub fn new(media: Media, kind: Arc<KindDef>, call: &Call) -> Result<EventEncoder, Status> {
        let (lean, include) = (call.lean, include_object(call)?);
        Ok(EventEncoder { media, lean, kind, include, columns_sent: false })
    }

    /// This representation, if the bytes of an event depend on the stored object alone.
    pub fn view(&self) -> Option<View> {
        match (self.media.shape, self.media.format, self.lean) {
            (Shape::AsIs, Format::Json, false) => Some(View::Json),
            (Shape::AsIs, Format::Json, true) => Some(View::Lean),
            (Shape::AsIs, Format::Protobuf, false) => Some(View::Protobuf),
            (Shape::Partial(version) | Shape::PartialList(version), Format::Json, lean)
                if self.kind.strategy.metadata_hides().is_empty() =>
            {
                match (version, lean) {
                    (MetaVersion::V1, false) => Some(View::Metadata),
                    (MetaVersion::V1beta1, false) => Some(View::MetadataBeta),
                    (MetaVersion::V1, true) => Some(View::LeanMetadata),
                    (MetaVersion::V1beta1, true) => None,
                }
            }
            _ => None,
        }
    }

    /// Appends an event as the client reads it.
    pub fn write(&mut self, event: &WatchEvent, out: &mut Vec<u8>) -> Result<(), Status> {
        let object = match self.lean {
            true => without_owners(event.object.clone()),
            false => event.object.clone(),
        };
        let object = match (event.kind, self.media.shape) {
            ("ERROR", _) | (_, Shape::AsIs) => object,
            (_, Shape::Partial(version) | Shape::PartialList(version)) => {
                partial(&self.kind, &object, version)?
            }
            (_, Shape::Table(version)) => self.row(&decode_stored(&object)?, version),
        };
        if self.media.format != Format::Protobuf {
            codec::watch_json(event.kind, &object, out);
            return Ok(());
        }
        let object = codec::to_proto(&decode_stored(&object)?).ok_or_else(Media::not_acceptable)?;
        out.extend_from_slice(&codec::watch_frame(event.kind, &object));
        Ok(())
    }

    fn row(&mut self, object: &Value, version: MetaVersion) -> Bytes {
        let with_columns = !std::mem::replace(&mut self.columns_sent, true);
        let head = table::head_of_object(object);
        let mut value = table::table(
            &self.kind,
            [object],
            head,
            self.include,
            with_columns,
            skiff_api::time::now(),
        );
        at_version(&mut value, version);
        Bytes::from(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_clients_are_not_told_who_owns_fields() {
        let told = |object: &'static str| without_owners(Bytes::from(object));
        let owned = r#"{"metadata":{"name":"a","managedFields":[{"manager":"]\""}],"uid":"u"},"data":{"managedFields":"[]"}}"#;
        assert_eq!(
            told(owned),
            r#"{"metadata":{"name":"a","uid":"u"},"data":{"managedFields":"[]"}}"#
        );
        let unowned =
            r#"{"metadata":{"name":"a"},"spec":{"template":{"metadata":{"managedFields":[]}}}}"#;
        assert_eq!(told(unowned), unowned);
        assert_eq!(
            told(r#"{"metadata":{"name":"a","managedFields":[]}}"#),
            r#"{"metadata":{"name":"a"}}"#
        );
    }

    /// One of daemon sets that is none upstream must not come back with the bytes that are passed on.
    #[test]
    fn metadata_is_passed_on_without_what_is_hidden() {
        let kinds = skiff_api::kinds::builtin();
        let shown = |group: &str, resource: &str, metadata: Value| -> Value {
            let kind = kinds.get(group, "v1", resource).expect("served");
            let object = json!({"kind": kind.kind, "metadata": metadata, "spec": {"a": 1}});
            let bytes =
                partial(kind, object.to_string().as_bytes(), MetaVersion::V1beta1).expect("JSON");
            serde_json::from_slice(&bytes).expect("JSON")
        };
        let of = |metadata: Value| json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1beta1", "metadata": metadata});
        let generation = "deprecated.daemonset.template.generation";
        let annotated = json!({"name": "a", "annotations": {generation: "1"}});
        assert_eq!(shown("", "pods", annotated.clone()), of(annotated.clone()));
        assert_eq!(shown("apps", "daemonsets", annotated), of(json!({"name": "a"})));
    }
}
