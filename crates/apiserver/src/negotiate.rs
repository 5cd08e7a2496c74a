//! Content negotiation: the `Accept` header -> the representation of the answer.
//!
//! Twice, as upstream: the route of a built-in resource only looks at media types, and knows no
//! `application/*`; the handler then takes the first range whose parameters it can serve.
//! Counterpart: `endpoints/handlers/negotiation`, and go-restful's choice of a route.

use skiff_api::codec::Format;
use skiff_api::status::Details;
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
    Table(MetaVersion),
    Partial(MetaVersion),
    PartialList(MetaVersion),
}

/// The version of `meta.k8s.io` that Tables and metadata are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVersion {
    V1,
    V1beta1,
}

/// What an endpoint can make of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Objects, also as metadata, and as Tables if they are kept. Custom resources have no protobuf form of their own.
    Resource { protobuf: bool, tables: bool },
    /// The lists of groups and resources, also aggregated.
    Discovery,
    /// Errors and everything else, as they are.
    Plain,
}

const ACCEPTED: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Refuses what the route of a built-in resource does not produce, before its handler is asked.
pub fn check_route(accept: &str, streams: bool) -> Result<(), Status> {
    let streamed = if streams { &STREAMED[..] } else { &[] };
    check_produced(accept, &[&ACCEPTED[..], streamed].concat())
}

/// Likewise, for a route that produces these media types.
pub fn check_produced(accept: &str, produced: &[&str]) -> Result<(), Status> {
    let fits = |range: &str| {
        let wanted = range.split(';').next().unwrap_or_default().trim_matches(' ');
        wanted == "*/*" || produced.contains(&wanted)
    };
    if accept.is_empty() || accept.split(',').any(fits) {
        return Ok(());
    }
    let message =
        format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
    Err(Status::new(406, Reason::NotAcceptable, message).with_details(Details::default()))
}

// === impl Media ===

impl Media {
    pub const JSON: Media =
        Media { format: Format::Json, shape: Shape::AsIs, pretty: false, stream: false };

    /// Whether stored bytes can be passed on as they are.
    pub fn is_stored_form(&self) -> bool {
        (self.format, self.shape, self.pretty) == (Format::Json, Shape::AsIs, false)
    }

    /// The first range that can be served. `None`: the client accepts nothing this endpoint speaks.
    pub fn negotiate(accept: &str, query: &Query, endpoint: Endpoint) -> Option<Media> {
        let media = match accept.is_empty() {
            true => Media::JSON,
            false => ranges(accept).iter().find_map(|range| range.served_by(endpoint))?,
        };
        Some(Media { pretty: media.pretty || is_true(query.text("pretty")), ..media })
    }

    pub fn not_acceptable() -> Status {
        refusal(&ACCEPTED)
    }

    /// The refusal of a watch in a format that cannot be streamed.
    pub fn not_streamable() -> Status {
        refusal(&STREAMED)
    }

    pub fn content_type(&self) -> &'static str {
        self.format.media_type()
    }
}

fn refusal(accepted: &[&str]) -> Status {
    let list = accepted.join(", ");
    let message = format!("only the following media types are accepted: {list}");
    Status::new(406, Reason::NotAcceptable, message)
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

// === impl MetaVersion ===

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

// === ranges ===

/// One range of an `Accept` header.
#[derive(Clone, Debug, PartialEq)]
pub struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: f64,
    params: Vec<(&'a str, &'a str)>,
}

/// The ranges of an `Accept` header, the most wanted first: by weight, but one that names more goes
/// before one that names less whatever their weights. Malformed ranges are left out.
pub fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut sorted: Vec<Range<'_>> = Vec::new();
    for range in accept.split(',').filter_map(|part| Range::read(part.trim_matches(' '))) {
        let mut at = sorted.len();
        while at > 0 && range.goes_before(&sorted[at - 1]) {
            at -= 1;
        }
        sorted.insert(at, range);
    }
    sorted
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Option<Range<'a>> {
        let mut parts = text.split(';');
        let name = parts.next()?;
        let (kind, subtype) = match name.split_once('/') {
            Some((kind, subtype)) if !subtype.is_empty() => (kind.trim_matches(' '), subtype),
            _ if name.trim_matches(['/', ' ']) == "*" => ("*", "*"),
            _ => return None,
        };
        if subtype.contains('/') {
            return None;
        }
        let mut range =
            Range { kind, subtype: subtype.trim_matches(' '), weight: 1.0, params: Vec::new() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if value.is_empty() || value.contains('=') {
                continue;
            }
            match name.trim_matches(' ') {
                "q" => range.weight = value.parse().unwrap_or(0.0),
                name => range.params.push((name, value.trim_matches(' '))),
            }
        }
        Some(range)
    }

    fn goes_before(&self, other: &Range<'_>) -> bool {
        self.weight > other.weight
            || (self.kind != "*" && other.kind == "*")
            || (self.subtype != "*" && other.subtype == "*")
    }

    /// Whether a media type is in this range.
    pub fn includes(&self, media_type: &str) -> bool {
        let (kind, subtype) = media_type.split_once('/').unwrap_or((media_type, ""));
        match (self.kind, self.subtype) {
            ("*", "*") => true,
            (own, "*") => own == kind,
            (own, of) => own == kind && of == subtype,
        }
    }

    /// The first format of the range that the endpoint can serve with these parameters.
    fn served_by(&self, endpoint: Endpoint) -> Option<Media> {
        [Format::Json, Format::Yaml, Format::Protobuf]
            .into_iter()
            .filter(|format| self.includes(format.media_type()))
            .find_map(|format| self.media(format, endpoint))
    }

    fn media(&self, format: Format, endpoint: Endpoint) -> Option<Media> {
        let last = |name: &str| self.params.iter().rev().find(|(key, _)| *key == name);
        let stream = last("stream").map(|(_, value)| *value);
        let streams = format != Format::Yaml;
        if stream.is_some_and(|stream| stream != "watch" || !streams) || last("sv").is_some() {
            return None;
        }
        let [kind, group, version] =
            ["as", "g", "v"].map(|name| last(name).map_or("", |(_, value)| *value));
        let converts = !(kind.is_empty() && group.is_empty() && version.is_empty());
        let shape = match (converts, endpoint) {
            (false, Endpoint::Resource { protobuf: false, .. }) if format == Format::Protobuf => {
                return None;
            }
            (false, _) => Shape::AsIs,
            (true, Endpoint::Resource { tables: false, .. }) if kind == "Table" => return None,
            (true, Endpoint::Resource { .. }) => shape(kind, group, version, format)?,
            (true, Endpoint::Discovery)
                if (kind, group, version)
                    == ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") =>
            {
                Shape::AsIs
            }
            (true, _) => return None,
        };
        let pretty = last("pretty").is_some_and(|(_, value)| *value == "1");
        Some(Media { format, shape, pretty, stream: stream.is_some() })
    }
}

fn shape(kind: &str, group: &str, version: &str, format: Format) -> Option<Shape> {
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => MetaVersion::V1,
        ("meta.k8s.io", "v1beta1") => MetaVersion::V1beta1,
        _ => return None,
    };
    match kind {
        // A Table's cells have no types that protobuf could tell.
        "Table" if format != Format::Protobuf => Some(Shape::Table(version)),
        "PartialObjectMetadata" => Some(Shape::Partial(version)),
        "PartialObjectMetadataList" => Some(Shape::PartialList(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: Endpoint = Endpoint::Resource { protobuf: true, tables: true };

    fn negotiated(accept: &str, endpoint: Endpoint) -> Option<(Format, Shape)> {
        let media = Media::negotiate(accept, &Query::default(), endpoint)?;
        Some((media.format, media.shape))
    }

    #[test]
    fn the_first_served_range_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, format, shape) in [
            (table, Format::Json, Shape::Table(MetaVersion::V1)),
            (
                "application/yaml;as=Table;v=v1beta1;g=meta.k8s.io",
                Format::Yaml,
                Shape::Table(MetaVersion::V1beta1),
            ),
            ("application/vnd.kubernetes.protobuf,application/json", Format::Protobuf, Shape::AsIs),
            ("*/*", Format::Json, Shape::AsIs),
            ("*", Format::Json, Shape::AsIs),
            ("application/json;q=0.8, application/yaml", Format::Yaml, Shape::AsIs),
            ("*/*, application/yaml;q=0.1", Format::Yaml, Shape::AsIs),
            ("application/json;as=, text/html", Format::Json, Shape::AsIs),
            (
                "text/html, application/json;as=Unknown;v=v1;g=meta.k8s.io, */*;q=0.1",
                Format::Json,
                Shape::AsIs,
            ),
        ] {
            assert_eq!(negotiated(accept, OBJECTS), Some((format, shape)), "{accept}");
        }
    }

    #[test]
    fn what_an_endpoint_cannot_make_is_skipped() {
        for accept in [
            "text/html",
            "application/json;as=Table",
            "application/json;v=v1",
            "application/json;stream=other",
            "application/yaml;stream=watch",
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
            "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io",
        ] {
            assert_eq!(negotiated(accept, OBJECTS), None, "{accept}");
        }
        let questions = Endpoint::Resource { protobuf: true, tables: false };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiated(table, questions), None, "what is not kept has no columns");
        let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        assert!(negotiated(metadata, questions).is_some());
        assert_eq!(negotiated(metadata, Endpoint::Plain), None);
        let custom = Endpoint::Resource { protobuf: false, tables: true };
        assert_eq!(negotiated("application/vnd.kubernetes.protobuf", custom), None);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        assert!(negotiated(metadata, custom).is_some());
    }

    #[test]
    fn a_route_knows_no_partial_wildcard() {
        for (accept, streams, fits) in [
            ("", false, true),
            ("*/*", false, true),
            ("application/*", false, false),
            ("text/html, application/yaml;q=0.1", false, true),
            ("APPLICATION/JSON", false, false),
        ] {
            assert_eq!(check_route(accept, streams).is_ok(), fits, "{accept}");
        }
        let refused = check_route("text/html", true).unwrap_err().message;
        assert!(refused.ends_with("application/vnd.kubernetes.protobuf;stream=watch"), "{refused}");
    }
}
