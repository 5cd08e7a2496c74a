//! Content negotiation: the `Accept` header -> the representation of the answer.
//!
//! Counterpart: `endpoints/handlers/negotiation`. Ranges are tried by weight, then in the order sent.

use http::HeaderValue;
use skiff_api::codec::Format;
use skiff_api::{Reason, Status};

use crate::query::Query;

/// How the client wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    pub format: Format,
    pub shape: Shape,
    pub pretty: bool,
    /// `stream=watch` was asked for in protobuf or JSON.
    pub stream: bool,
}

/// Which object the answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    AsIs,
    Table,
    Partial,
    PartialList,
}

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

// === impl Media ===

impl Media {
    pub const JSON: Media =
        Media { format: Format::Json, shape: Shape::AsIs, pretty: false, stream: false };

    /// Whether stored bytes can be passed on as they are.
    pub fn is_stored_form(&self) -> bool {
        (self.format, self.shape, self.pretty) == (Format::Json, Shape::AsIs, false)
    }

    /// The first range that can be served. `None`: the client accepts nothing this server speaks.
    /// Custom resources have no `protobuf` form.
    pub fn negotiate(accept: Option<&HeaderValue>, query: &Query, protobuf: bool) -> Option<Media> {
        let text = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
        let pretty = query.flag("pretty");
        if text.trim().is_empty() {
            return Some(Media { pretty, ..Media::JSON });
        }
        let served = |media: &Media| protobuf || media.format != Format::Protobuf;
        ranges(text).into_iter().filter_map(|range| Media::range(range, pretty)).find(served)
    }

    fn range(range: &str, pretty: bool) -> Option<Media> {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next()? {
            "*/*" | "application/*" => Format::Json,
            other => Format::of_media_type(other)?,
        };
        let (mut kind, mut version, mut group, mut stream) = ("", "", "", false);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim() {
                "as" => kind = value.trim(),
                "v" => version = value.trim(),
                "g" => group = value.trim(),
                "stream" => stream = value.trim() == "watch",
                _ => {}
            }
        }
        let shape = match (kind, version, group) {
            ("", _, _) => Shape::AsIs,
            ("Table", "v1", "meta.k8s.io") => Shape::Table,
            ("PartialObjectMetadata", "v1", "meta.k8s.io") => Shape::Partial,
            ("PartialObjectMetadataList", "v1", "meta.k8s.io") => Shape::PartialList,
            // The shape of aggregated discovery is that endpoint's own matter.
            (_, "v2" | "v2beta1", "apidiscovery.k8s.io") => Shape::AsIs,
            _ => return None,
        };
        Some(Media { format, shape, pretty, stream })
    }

    pub fn not_acceptable() -> Status {
        let message = format!("only the following media types are accepted: {ACCEPTED}");
        Status::new(406, Reason::NotAcceptable, message)
    }

    pub fn content_type(&self) -> &'static str {
        self.format.media_type()
    }
}

/// The ranges of an `Accept` header, the most wanted first: by weight, and among equals the one that
/// names more.
pub fn ranges(accept: &str) -> Vec<&str> {
    let mut ranges: Vec<&str> = accept.split(',').map(str::trim).collect();
    ranges.sort_by_key(|range| {
        let mut parts = range.split(';').map(str::trim);
        let open = parts.next().unwrap_or_default().matches('*').count();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f64>().ok());
        let thousandths = (weight.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u32;
        (std::cmp::Reverse(thousandths), open)
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_served_range_wins() {
        let check = |accept: &'static str, format, shape| {
            let media =
                Media::negotiate(Some(&HeaderValue::from_static(accept)), &Query::default(), true);
            let media = media.expect("acceptable");
            assert_eq!((media.format, media.shape), (format, shape), "{accept}");
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(table, Format::Json, Shape::Table);
        check(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Format::Json,
            Shape::AsIs,
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Format::Protobuf,
            Shape::AsIs,
        );
        check("*/*", Format::Json, Shape::AsIs);
        check("application/json;q=0.8, application/yaml", Format::Yaml, Shape::AsIs);
        check("*/*, application/yaml", Format::Yaml, Shape::AsIs);
        check(
            "text/html, application/json;as=Unknown;v=v1;g=meta.k8s.io, */*;q=0.1",
            Format::Json,
            Shape::AsIs,
        );
        let none = HeaderValue::from_static("text/html");
        assert_eq!(Media::negotiate(Some(&none), &Query::default(), true), None);
    }
}
