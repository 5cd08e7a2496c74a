//! Any text as a rule over an object: it compiles or is refused, and what compiles ends within what it may cost.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};
use skiff_cel::{DeclType, Env, Type, Value};

/// A hundredth of what the server grants: loops meet it early, and cases are many.
const LIMIT: u64 = 10_000;
/// The last step of an evaluation is counted before it is refused.
const LAST_STEP: u64 = 3 * 1024 * 1024;

/// What rules are about: one field of every type a schema can have.
struct Subject {
    env: Env,
    decl: Arc<DeclType>,
    object: Json,
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let decl = DeclType::from_schema(&schema(), false).expect("a structural schema");
    let decl = Arc::new(decl.named("selfType"));
    let env = Env::kubernetes()
        .with_bindings()
        .with_quoted_identifiers()
        .declare("self", decl.clone())
        .declare("oldSelf", decl.clone())
        .variable("object", Type::Dyn);
    Subject { env, decl, object: object() }
});

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let subject = &*SUBJECT;
    let program = match subject.env.compile(text) {
        Ok(program) => program,
        Err(issues) => return drop(issues.to_string()),
    };
    let declared = || Value::declared(&subject.object, &subject.decl).expect("it fits its schema");
    let variables =
        [("self", declared()), ("oldSelf", declared()), ("object", Value::from(&subject.object))];
    let outcome = program.evaluate(&variables, LIMIT);
    assert!(outcome.cost <= LIMIT + LAST_STEP, "cost {} of {text:?}", outcome.cost);
    match outcome.value {
        Ok(value) => drop(value.to_json()),
        Err(error) => drop(error.to_string()),
    }
});

fn schema() -> Json {
    let text = |format| json!({ "type": "string", "format": format });
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 63 },
            "count": { "type": "integer" },
            "ratio": { "type": "number" },
            "on": { "type": "boolean" },
            "when": text("date-time"),
            "day": text("date"),
            "span": text("duration"),
            "raw": text("byte"),
            "port": { "x-kubernetes-int-or-string": true },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "list": { "type": "array", "items": { "type": "integer" } },
            "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
            "map": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
                "items": {
                    "type": "object",
                    "properties": { "key": { "type": "string" }, "value": { "type": "integer" } },
                },
            },
            "any": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        },
    })
}

fn object() -> Json {
    json!({
        "name": "web-0", "count": 3, "ratio": 0.5, "on": true, "port": "80",
        "when": "2026-01-02T03:04:05.678Z", "day": "2026-01-02", "span": "1h2m3s", "raw": "aGk=",
        "labels": { "app": "web", "tier": "é" }, "list": [3, 1, 2], "set": ["a", "b"],
        "map": [{ "key": "a", "value": 1 }, { "key": "b", "value": 2 }],
        "any": { "deep": [{ "er": null }], "ip": "10.0.0.1", "quantity": "1.5Gi", "url": "https://a:1/b?c=d" },
    })
}
