//! Event: stored once in core form, served as core v1 and as events.k8s.io/v1.

use serde_json::{Map, Value};

use crate::age;
use crate::field::ErrorList;
use crate::kind::{GroupVersion, KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{int, text};
use crate::meta::meta;
use crate::validation::{dns_subdomain, qualified_name};

/// `strict`: reached as events.k8s.io/v1, which demands what core v1 leaves open.
pub struct Event {
    pub strict: bool,
}

const MESSAGE_MAX: usize = 1024;
const SHORT_MAX: usize = 128;

/// The selectable fields by the names of events.k8s.io, in the stored form.
const REGARDING: &[(&str, &str)] = &[
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("regarding.apiVersion", "/involvedObject/apiVersion"),
    ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    ("regarding.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingController", "/reportingComponent"),
    ("type", "/type"),
];

impl Strategy for Event {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let core = in_core_form(object);
        let root = At::root(&core);
        validate_event(&root, self.reporter(), errors);
        if self.strict {
            validate_strict(&root, errors);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (core, old) = (in_core_form(object), in_core_form(old));
        let root = At::root(&core);
        validate_event(&root, self.reporter(), errors);
        if self.strict {
            validate_strict_change(&root, &At::root(&old), errors);
        }
    }

    /// Events have no status subresource, and every field is the reporter's to write.
    fn prepare_for_create(&self, _kind: &KindDef, _object: &mut Value) {}

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        if self.strict {
            return REGARDING;
        }
        &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            // Newer clients say who reports, and leave the source out.
            ("source", "/source/component|/reportingComponent"),
            ("type", "/type"),
        ]
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        let object = &in_core_form(object);
        let kind = text(object, "/involvedObject/kind").to_lowercase();
        match column {
            "Last Seen" => seen(last_seen(object), now).into(),
            "Type" => text(object, "/type").into(),
            "Reason" => text(object, "/reason").into(),
            "Object" => match text(object, "/involvedObject/name") {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            },
            "Subobject" => text(object, "/involvedObject/fieldPath").into(),
            "Source" => source(object).into(),
            "Message" => text(object, "/message").trim().into(),
            "First Seen" => seen(first_seen(object), now).into(),
            "Count" => times(object).into(),
            _ => Value::Null,
        }
    }

    fn convert(&self, object: &mut Value, to: &GroupVersion) -> Result<(), String> {
        let renamed = match to.group.as_str() {
            "" => rename(object, |(events, core)| (events, core)),
            _ => rename(object, |(events, core)| (core, events)),
        };
        *object = Value::Object(renamed);
        object["apiVersion"] = to.to_string().into();
        Ok(())
    }
}

impl Event {
    /// What the reporting controller is called in the form that the client knows.
    fn reporter(&self) -> &'static str {
        if self.strict { "reportingController" } else { "reportingComponent" }
    }
}

/// Field names that differ: events.k8s.io form, core form.
const NAMES: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

fn rename(
    event: &Value,
    side: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Map<String, Value> {
    let fields = event.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| {
            let renamed = NAMES.iter().map(|pair| side(*pair)).find(|(from, _)| from == name);
            (renamed.map_or(name.clone(), |(_, to)| to.to_owned()), value.clone())
        })
        .collect()
}

/// Tables are made of the stored form; an event that was already converted is turned back.
fn in_core_form(event: &Value) -> Value {
    match event.get("regarding") {
        Some(_) => Value::Object(rename(event, |(events, core)| (events, core))),
        None => event.clone(),
    }
}

fn times(event: &Value) -> i64 {
    match event.get("series") {
        Some(series) => int(series, "/count").unwrap_or(0),
        None => int(event, "/count").filter(|count| *count != 0).unwrap_or(1),
    }
}

fn first_seen(event: &Value) -> &str {
    match text(event, "/firstTimestamp") {
        "" => text(event, "/eventTime"),
        time => time,
    }
}

fn last_seen(event: &Value) -> &str {
    match text(event, "/series/lastObservedTime") {
        "" if text(event, "/lastTimestamp").is_empty() => first_seen(event),
        "" => text(event, "/lastTimestamp"),
        time => time,
    }
}

fn seen(time: &str, now: i64) -> String {
    age::since(time, now)
}

/// `component, host`.
fn source(event: &Value) -> String {
    let component = match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    };
    let host = match text(event, "/source/host") {
        "" if meta(event).namespace().is_empty() => "",
        "" => text(event, "/reportingInstance"),
        host => host,
    };
    match host.is_empty() {
        true => component.to_owned(),
        false => format!("{component}, {host}"),
    }
}

// === validation ===

/// What every event must have. With a time of its own it is of the newer form, whichever way it
/// came, and says who reports what.
fn validate_event(root: &At, reporter: &str, errors: &mut ErrorList) {
    let place = root.child("involvedObject");
    let (about, own) = (place.text_of("namespace"), meta(root.value).namespace());
    let newer = !root.child("eventTime").is_empty();
    let fits = match (newer, about) {
        (true, "") => own == "default" || own == "kube-system",
        (true, _) => true,
        (false, "") => own.is_empty() || own == "default",
        (false, about) => about == own,
    };
    if !fits {
        place.child("namespace").invalid_as(errors, about, "does not match event.namespace");
    }
    if newer {
        validate_report(root, reporter, errors);
    }
    for fault in dns_subdomain(own) {
        root.child("namespace").invalid_as(errors, own, fault);
    }
}

fn validate_report(root: &At, reporter: &str, errors: &mut ErrorList) {
    let controller = root.child("reportingComponent");
    let controller = At::new(controller.value, root.path.child(reporter));
    controller.needed(errors);
    for fault in qualified_name(controller.text()) {
        controller.invalid_as(errors, controller.text(), fault);
    }
    for field in ["reportingInstance", "action", "reason"] {
        root.child(field).needed(errors);
        validate_length(&root.child(field), SHORT_MAX, errors);
    }
    validate_length(&root.child("message"), MESSAGE_MAX, errors);
}

/// Upstream shows no value here.
fn validate_length(at: &At, longest: usize, errors: &mut ErrorList) {
    if at.text().len() > longest {
        at.invalid_as(errors, "", format!("can have at most {longest} characters"));
    }
}

/// The newer form has no use for the older one's fields, and shows no value in its faults.
fn validate_strict(root: &At, errors: &mut ErrorList) {
    validate_series(&root.child("series"), errors);
    let time = root.child("eventTime");
    if time.is_empty() {
        time.required(errors, "");
    }
    let of = root.child("type");
    if !["Normal", "Warning"].contains(&of.text()) {
        of.invalid_as(errors, "", format!("has invalid value: {}", of.text()));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count"] {
        let at = root.child(field);
        if at.is_set() && at.value.as_i64() != Some(0) {
            at.invalid_as(errors, "", "needs to be unset");
        }
    }
    let source = root.child("source");
    if ["component", "host"].iter().any(|field| !source.text_of(field).is_empty()) {
        source.invalid_as(errors, "", "needs to be unset");
    }
}

fn validate_series(series: &At, errors: &mut ErrorList) {
    if !series.is_set() {
        return;
    }
    if series.child("count").int() < 2 {
        series.child("count").invalid_as(errors, "", "should be at least 2");
    }
    let seen = series.child("lastObservedTime");
    if seen.is_empty() {
        seen.required(errors, "");
    }
}

/// Of an event of the newer form only its series goes on: fields, and as what they are reported.
const SETTLED: &[(&str, &str)] = &[
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn validate_strict_change(root: &At, old: &At, errors: &mut ErrorList) {
    if root.child("series").value != old.child("series").value {
        validate_series(&root.child("series"), errors);
    }
    for (field, shown) in SETTLED {
        let at = At::new(root.child(field).value, root.path.child(shown));
        at.unchanged(errors, &old.child(field));
    }
}
