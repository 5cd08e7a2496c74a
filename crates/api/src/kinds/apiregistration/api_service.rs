//! APIService: a group and version served here, or by a Service that requests are handed on to.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{FieldPaths, KindDef, META_AND_SPEC, NameRule, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{list, object, object_at, set, text};
use crate::validation::{dns_1035_label, dns_subdomain, path_segment, port_number};

pub struct APIService;

impl Strategy for APIService {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn without_tables(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn default(&self, root: &mut Value) {
        let service = object_at(root, "/spec").and_then(|spec| object(spec, "service"));
        if let Some(service) = service {
            set(service, "port", 443);
        }
    }

    /// What is served here is available from the start.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
        if object.pointer("/spec/service").is_none() {
            object["status"] = json!({"conditions": [{
                "type": "Available",
                "status": "True",
                "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": crate::time::format(crate::time::now()),
            }]});
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        validate_name(&root, &spec, errors);
        let (group, version) = (spec.child("group"), spec.child("version"));
        if group.is_empty() && version.text() != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            group.required(errors, detail);
        }
        group.obeys_if_set(errors, dns_subdomain);
        for fault in dns_1035_label(version.text()) {
            version.invalid_as(errors, version.text(), fault);
        }
        within(&spec.child("groupPriorityMinimum"), 20000, errors);
        within(&spec.child("versionPriority"), 1000, errors);
        let service = spec.child("service");
        let insecure = spec.child("insecureSkipTLSVerify");
        if !service.is_set() {
            if !spec.child("caBundle").is_empty() {
                let detail = "local APIServices may not have a caBundle";
                let bundle = spec.child("caBundle");
                let bytes = base64_length(bundle.text());
                bundle.invalid_as(errors, format!("{bytes} bytes"), detail);
            }
            if insecure.flag() {
                insecure.invalid(errors, "local APIServices may not have insecureSkipTLSVerify");
            }
            return;
        }
        service.child("namespace").needed(errors);
        service.child("name").needed(errors);
        let port = service.child("port");
        for fault in port_number(port.int()) {
            port.invalid(errors, format!("port is not valid: {fault}"));
        }
        if insecure.flag() && !spec.child("caBundle").is_empty() {
            insecure.invalid(errors, "may not be true if caBundle is present");
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let status = root.child("status");
        for condition in status.child("conditions").items() {
            condition.child("status").one_of(errors, &["True", "False", "Unknown"]);
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Service" => match object.pointer("/spec/service") {
                Some(service) => {
                    format!("{}/{}", text(service, "/namespace"), text(service, "/name")).into()
                }
                None => "Local".into(),
            },
            "Available" => available(object).into(),
            _ => Value::Null,
        }
    }
}

/// How many bytes a text in base64 stands for.
fn base64_length(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

fn available(service: &Value) -> String {
    let conditions = list(service, "/status/conditions");
    let available = conditions.iter().find(|condition| text(condition, "/type") == "Available");
    match available.map(|condition| (text(condition, "/status"), text(condition, "/reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) | Some((_, "")) => {
            available.map_or("", |condition| text(condition, "/status")).to_owned()
        }
        Some((status, reason)) => format!("{status} ({reason})"),
    }
}

fn validate_name(root: &At, spec: &At, errors: &mut ErrorList) {
    let wanted = format!("{}.{}", spec.text_of("version"), spec.text_of("group"));
    for field in ["generateName", "name"] {
        let meta = root.child("metadata");
        let name = meta.child(field);
        if name.text() != wanted && !name.is_empty() && path_segment(name.text()).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            name.invalid(errors, detail);
        }
    }
}

fn within(priority: &At, most: i64, errors: &mut ErrorList) {
    if priority.int() <= 0 || priority.int() > most {
        priority.invalid_as(
            errors,
            priority.int(),
            format!("must be positive and less than {most}"),
        );
    }
}
