//! PriorityLevelConfiguration: a share of the server's concurrency, and what happens beyond it.

use serde_json::{Value, json};

use super::flow_schema::validate_conditions;
use crate::field::ErrorList;
use crate::kind::{
    FieldPaths, KindDef, META_AND_SPEC, SETTLED_META, Strategy, keep_all_but_status, keep_meta,
};
use crate::kinds::at::At;
use crate::kinds::fill::{int, object, object_at, set, set_if_empty, text};
use crate::meta::meta;

pub struct PriorityLevel;

const QUEUES_MAX: i64 = 10_000_000;
/// How many bits of a flow's hash pick its hand of queues.
const ENTROPY_MAX: f64 = 60.0;

impl Strategy for PriorityLevel {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn default(&self, root: &mut Value) {
        let Some(spec) = object_at(root, "/spec") else { return };
        if let Some(exempt) = object(spec, "exempt") {
            set(exempt, "nominalConcurrencyShares", 0);
            set(exempt, "lendablePercent", 0);
        }
        let Some(limited) = object(spec, "limited") else { return };
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        let response = object(limited, "limitResponse");
        if let Some(queuing) = response.and_then(|response| object(response, "queuing")) {
            set_if_empty(queuing, "queues", 64);
            set_if_empty(queuing, "handSize", 8);
            set_if_empty(queuing, "queueLengthLimit", 50);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        keep_meta(object, old, SETTLED_META);
        keep_meta(object, old, &["generateName"]);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let of = spec.child("type");
        if (meta(object).name() == "exempt") != (of.text() == "Exempt") {
            of.invalid(errors, "must be 'Exempt' if and only if `name` is 'exempt'");
        }
        let (limited, exempt) = (spec.child("limited"), spec.child("exempt"));
        match of.text() {
            "Exempt" if limited.is_set() => {
                limited.forbidden(errors, "must be nil if the type is not Limited");
                validate_exempt(&exempt, errors);
            }
            "Exempt" => validate_exempt(&exempt, errors),
            "Limited" => {
                if exempt.is_set() {
                    exempt.forbidden(errors, "must be nil if the type is Limited");
                }
                match limited.is_set() {
                    true => validate_limited(&limited, errors),
                    false => limited.required(errors, "must not be empty when type is Limited"),
                }
            }
            _ => of.not_supported(errors, &["Exempt", "Limited"]),
        }
        validate_mandatory(&spec, meta(object).name(), errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_conditions(object, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let of = if text(object, "/spec/type") == "Exempt" { "exempt" } else { "limited" };
        let number = |pointer: String| match int(object, &pointer) {
            Some(number) => number.into(),
            None => "<none>".into(),
        };
        let queuing = |field: &str| number(format!("/spec/limited/limitResponse/queuing/{field}"));
        match column {
            "Type" => text(object, "/spec/type").into(),
            "NominalConcurrencyShares" => number(format!("/spec/{of}/nominalConcurrencyShares")),
            "Queues" => queuing("queues"),
            "HandSize" => queuing("handSize"),
            "QueueLengthLimit" => queuing("queueLengthLimit"),
            _ => Value::Null,
        }
    }
}

/// The levels that the server cannot do without; how much the exempt one has may change.
fn validate_mandatory(spec: &At, name: &str, errors: &mut ErrorList) {
    let mut has = spec.value.clone();
    let fixed = match name {
        "exempt" => {
            has.as_object_mut().map(|spec| spec.remove("exempt"));
            json!({"type": "Exempt"})
        }
        "catch-all" => json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5,
            "lendablePercent": 0,
            "limitResponse": {"type": "Reject"},
        }}),
        _ => return,
    };
    let except = if name == "exempt" { " except the 'spec.exempt' field" } else { "" };
    if fixed != has {
        spec.invalid(errors, format!("spec of '{name}'{except} must equal the fixed value"));
    }
}

fn validate_exempt(exempt: &At, errors: &mut ErrorList) {
    let shares = exempt.child("nominalConcurrencyShares");
    if shares.int() < 0 {
        shares.invalid(errors, "must be a non-negative integer");
    }
    exempt.child("lendablePercent").between(errors, 0..=100);
}

fn validate_limited(limited: &At, errors: &mut ErrorList) {
    let shares = limited.child("nominalConcurrencyShares");
    if shares.int() < 0 {
        shares.invalid(errors, "must be a non-negative integer");
    }
    validate_response(&limited.child("limitResponse"), errors);
    limited.child("lendablePercent").between(errors, 0..=100);
    let borrowing = limited.child("borrowingLimitPercent");
    if borrowing.int() < 0 {
        borrowing.invalid(errors, "if specified, must be a non-negative integer");
    }
}

fn validate_response(response: &At, errors: &mut ErrorList) {
    let queuing = response.child("queuing");
    match response.text_of("type") {
        "Reject" if queuing.is_set() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            queuing.forbidden(errors, detail);
        }
        "Reject" => {}
        "Queue" if !queuing.is_set() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            queuing.required(errors, detail);
        }
        "Queue" => validate_queuing(&queuing, errors),
        _ => response.child("type").not_supported(errors, &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &At, errors: &mut ErrorList) {
    let (queues, hand) = (queuing.child("queues"), queuing.child("handSize"));
    let limit = queuing.child("queueLengthLimit");
    for count in [&limit, &queues] {
        if count.int() <= 0 {
            count.invalid_as(errors, count.int(), "must be positive");
        }
    }
    if queues.int() > QUEUES_MAX {
        queues.invalid(errors, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand.int() <= 0 {
        hand.invalid(errors, "must be positive");
    } else if hand.int() > queues.int() {
        hand.invalid(errors, format!("should not be greater than queues ({})", queues.int()));
    } else if entropy(queues.int(), hand.int()) > ENTROPY_MAX {
        let detail = format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than 60",
            queues.int(),
            hand.int()
        );
        hand.invalid(errors, detail);
    }
}

/// Bits that dealing a hand of distinct queues takes.
fn entropy(queues: i64, hand: i64) -> f64 {
    (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum::<f64>().ceil()
}
