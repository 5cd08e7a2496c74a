//! CustomResourceDefinitions and their objects, by small cases.

use serde_json::{Value, json};

use super::*;
use crate::codec::{self, Format, Target};
use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::{apply, default};

fn definition(schema: Value) -> Value {
    json!({"metadata": {"name": "things.g.example.com"}, "spec": {"group": "g.example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema}}]}})
}

fn spec_of(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

fn thing(properties: Value) -> KindDef {
    kinds(&definition(spec_of(properties))).expect("a valid definition").remove(0)
}

/// What a spec becomes when it is created, with its findings and faults.
fn create(kind: &KindDef, spec: Value) -> (Value, Vec<String>, Vec<String>) {
    let body = json!({"apiVersion": "g.example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec});
    let decoded = codec::decode(body.to_string().as_bytes(), Format::Json, &Target::of(kind))
        .expect("readable");
    let mut object = decoded.object;
    default::apply(&mut object, kind);
    let mut errors = ErrorList::default();
    kind.strategy.validate(&object, &mut errors);
    let faults = errors.0.iter().map(ToString::to_string).collect();
    (object["spec"].take(), decoded.strict, faults)
}

#[test]
fn objects_are_pruned_defaulted_and_normalised() {
    let kind = thing(json!({
        "size": {"type": "integer", "default": 2},
        "name": {"type": "string"},
        "nul": {"type": "string", "nullable": true},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "keyed": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "integer", "default": 7}}}},
        "deep": {"type": "object", "default": {}, "properties": {"a": {"type": "string", "default": "x"}}},
    }));
    let (spec, strict, faults) = create(
        &kind,
        json!({"unknown": 1, "size": null, "name": null, "nul": null, "any": {"x": [1, {"y": null}]},
            "keyed": [{"id": "b"}], "deep": {"z": 1}}),
    );
    assert_eq!(
        spec,
        json!({"any": {"x": [1, {"y": null}]}, "deep": {"a": "x"}, "keyed": [{"id": "b", "v": 7}], "nul": null, "size": 2})
    );
    assert_eq!(strict, [r#"unknown field "spec.deep.z""#, r#"unknown field "spec.unknown""#]);
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(create(&kind, json!({"size": 3.0})).0["size"], json!(3));
}

#[test]
fn values_are_validated_in_upstreams_words() {
    let kind = thing(json!({
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "name": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "ratio": {"type": "number", "exclusiveMinimum": true, "minimum": 0, "multipleOf": 0.5},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
        "port": {"x-kubernetes-int-or-string": true},
        "when": {"type": "string", "format": "date-time"},
        "b": {"type": "boolean"},
    }));
    for (spec, wanted) in [
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": "3"}),
            r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
        ),
        (
            json!({"name": "a"}),
            r#"spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long"#,
        ),
        (json!({"name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes"),
        (
            json!({"name": "A1"}),
            r#"spec.name: Invalid value: "A1": spec.name in body should match '^[a-z]+$'"#,
        ),
        (
            json!({"mode": "medium"}),
            r#"spec.mode: Unsupported value: "medium": supported values: "fast", "slow""#,
        ),
        (
            json!({"ratio": 0.7}),
            "spec.ratio: Invalid value: 0.7: spec.ratio in body should be a multiple of 0.5",
        ),
        (
            json!({"list": []}),
            "spec.list: Invalid value: 0: spec.list in body should have at least 1 items",
        ),
        (json!({"list": ["a", "b", "c"]}), "spec.list: Too many: 3: must have at most 2 items"),
        (
            json!({"list": [1]}),
            r#"spec.list[0]: Invalid value: "integer": spec.list[0] in body must be of type string: "integer""#,
        ),
        (json!({"set": [1, 1]}), "spec.set[1]: Duplicate value: 1"),
        (
            json!({"keyed": [{"id": "a"}, {"id": "a"}]}),
            r#"spec.keyed[1]: Duplicate value: {"id":"a"}"#,
        ),
        (json!({"keyed": [{"v": 1}]}), "spec.keyed[0].id: Required value"),
        (
            json!({"map": {"a": "b"}}),
            r#"spec.map.a: Invalid value: "string": spec.map.a in body must be of type integer: "string""#,
        ),
        (
            json!({"map": {"a": 1, "b": 2, "c": 3}}),
            "spec.map: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"port": {}}),
            r#"spec.port: Invalid value: "object": spec.port in body must be of type integer,string: "object""#,
        ),
        (
            json!({"when": "yesterday"}),
            r#"spec.when: Invalid value: "yesterday": spec.when in body must be of type date-time: "yesterday""#,
        ),
        (
            json!({"b": "true"}),
            r#"spec.b: Invalid value: "string": spec.b in body must be of type boolean: "string""#,
        ),
    ] {
        assert_eq!(create(&kind, spec).2, [wanted]);
    }
    assert_eq!(create(&kind, json!({"size": 1.5})).2.len(), 2);
}

#[test]
fn kinds_have_columns_subresources_and_selectable_fields() {
    let mut definition = definition(spec_of(json!({"replicas": {"type": "integer"}})));
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}});
    version["additionalPrinterColumns"] =
        json!([{"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    let kind = kinds(&definition).expect("valid").remove(0);
    assert_eq!(kind.list_kind, "ThingList");
    let subs: Vec<&str> = kind.subresources.iter().map(|sub| sub.name.as_str()).collect();
    assert_eq!(subs, ["status", "scale"]);
    assert_eq!(kind.scale.as_ref().expect("scales").spec_replicas, "/spec/replicas");
    assert_eq!(kind.strategy.cell(&json!({"spec": {"replicas": 3}}), "Replicas", 0), json!(3));
    let blue = crate::selector::Fields::parse("spec.color=blue", &kind).expect("selectable");
    assert!(blue.matches(&json!({"spec": {"color": "blue"}})));
    let plain = thing(json!({}));
    assert_eq!(plain.columns[1].name, "Age");
    let object = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}});
    assert_eq!(plain.strategy.cell(&object, "Age", 978_307_205), json!("5s"));
}

#[test]
fn untyped_places_are_owned_field_by_field() {
    let kind =
        thing(json!({"any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}));
    let mut object = json!({"apiVersion": "g.example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"any": {"a": {"b": [1]}}}});
    let manager =
        apply::Manager { name: "m".into(), api_version: kind.api_version(), ..Default::default() };
    apply::track(&kind, None, &mut object, &manager);
    let owned = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(
        *owned,
        json!({"f:spec": {".": {}, "f:any": {".": {}, "f:a": {".": {}, "f:b": {}}}}})
    );
}

#[test]
fn a_rule_that_asks_for_a_type_is_not_too_expensive() {
    let mut schema = spec_of(json!({"io": {"x-kubernetes-int-or-string": true}}));
    schema["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "type(self.io) == int ? self.io > 5 : self.io.contains('%')"}]);
    assert_eq!(refused(definition(schema)), [""; 0]);
}

#[test]
fn what_a_definition_leaves_out_is_told_once() {
    let mut nameless = definition(spec_of(json!({})));
    nameless["metadata"] = json!({});
    assert!(!refused(nameless).iter().any(|fault| fault.contains("must be spec.names.plural")));
    let empty = refused(json!({"metadata": {"name": "x.y"}}));
    assert!(!empty.iter().any(|fault| fault.starts_with("spec.conversion")), "{empty:?}");
}

#[test]
fn rules_of_a_definition_are_compiled_and_priced() {
    let place = "spec.validation.openAPIV3Schema.properties[spec].properties[a]";
    let of = |rule: Value| json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [rule]});
    for (rule, wanted) in [
        (
            json!({"rule": "size(self)"}),
            "x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"size(self)\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: cel expression must evaluate to a bool",
        ),
        (
            json!({"rule": " "}),
            "x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
    ] {
        let faults = refused(definition(spec_of(json!({"a": of(rule)}))));
        assert_eq!(faults, [format!("{place}.{wanted}")]);
    }
    let costly = of(json!({"rule": "self.all(x, self.all(y, x.contains(y)))"}));
    let faults = refused(definition(spec_of(json!({"a": costly}))));
    assert!(
        faults[0].contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{faults:?}"
    );
}

/// What is wrong with a definition that is created.
fn refused(mut definition: Value) -> Vec<String> {
    let strategy = definition::Definition;
    strategy.default(&mut definition);
    let kinds = crate::kinds::builtin();
    let kind =
        kinds.get("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("served");
    strategy.prepare_for_create(kind, &mut definition);
    let mut errors = ErrorList::default();
    strategy.validate(&definition, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn selectable_fields_stand_where_the_schema_does() {
    let mut definition = definition(spec_of(json!({"color": {"type": "string"}})));
    let mut versions = [definition["spec"]["versions"][0].clone(), Value::Null];
    versions[1] = versions[0].clone();
    versions[1]["name"] = "v2".into();
    versions[1]["storage"] = false.into();
    versions[0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    definition["spec"]["versions"] = json!(versions);
    assert_eq!(
        refused(definition.clone()),
        [
            r#"spec.versions[0].selectableFields: Invalid value: "": may only be set when `version.schema.openAPIV3Schema` is not included"#
        ]
    );
    versions[1]["selectableFields"] = versions[0]["selectableFields"].clone();
    definition["spec"]["versions"] = json!(versions);
    assert_eq!(refused(definition.clone()), [""; 0]);
    versions[1]["schema"]["openAPIV3Schema"]["description"] = "another".into();
    definition["spec"]["versions"] = json!(versions);
    assert_eq!(
        refused(definition),
        [
            r#"spec.selectableFields: Invalid value: "": may only be set when validations.schema is included"#
        ]
    );
}

#[test]
fn schemas_within_refused_keywords_are_looked_into() {
    let place = "spec.validation.openAPIV3Schema.properties[spec].properties[a]";
    let a = json!({
        "type": "object",
        "definitions": {"x": {"type": "strange"}},
        "dependencies": {"y": ["z"], "z": {"$ref": "#/q"}},
    });
    let kinds = r#""array", "boolean", "integer", "number", "object", "string""#;
    assert_eq!(
        refused(definition(spec_of(json!({"a": a})))),
        [
            format!("{place}.definitions: Forbidden: definitions is not supported"),
            format!("{place}.dependencies: Forbidden: dependencies is not supported"),
            format!(
                r#"{place}.definitions[x].type: Unsupported value: "strange": supported values: {kinds}"#
            ),
            format!("{place}.dependencies[z].$ref: Forbidden: $ref is not supported"),
        ]
    );
}

#[test]
fn definitions_are_refused_as_upstream_does() {
    let place = "spec.validation.openAPIV3Schema.properties[spec].properties[a]";
    for (a, wanted) in [
        (
            json!({"description": "x"}),
            format!("{place}.type: Required value: must not be empty for specified object fields"),
        ),
        (
            json!({"type": "thing"}),
            format!(
                r#"{place}.type: Unsupported value: "thing": supported values: "array", "boolean", "integer", "number", "object", "string""#
            ),
        ),
        (
            json!({"type": "string", "default": 5}),
            format!(
                r#"{place}.default: Invalid value: "integer":  in body must be of type string: "integer""#
            ),
        ),
        (
            json!({"type": "object", "default": {"x": 1}}),
            format!(r#"{place}.default: Invalid value: {{"x":1}}: must not have unknown fields"#),
        ),
        (json!({"type": "array"}), format!("{place}.items: Required value: must be specified")),
        (json!({"$ref": "#/x"}), format!("{place}.$ref: Forbidden: $ref is not supported")),
        (
            json!({"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            format!(
                "{place}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
            ),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            format!(
                "{place}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ),
        ),
    ] {
        assert_eq!(refused(definition(spec_of(json!({"a": a})))), [wanted]);
    }
    let mut wrong = definition(json!({"type": "string"}));
    wrong["metadata"]["name"] = "wrong".into();
    wrong["spec"]["scope"] = "Galaxy".into();
    let faults = refused(wrong);
    let fields: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
    assert_eq!(fields, ["metadata.name", "spec.scope", "spec.validation.openAPIV3Schema.type"]);
}
