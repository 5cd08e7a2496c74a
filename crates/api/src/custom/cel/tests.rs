//! Rules by small cases: a schema for `self`, a rule, an old and a new value.

use serde_json::json;

use super::super::rules::Rule;
use super::*;

fn found(schema: &Value, old: Option<&Value>, new: &Value) -> (Vec<String>, Vec<String>) {
    let rules = Rules::read(schema, false).expect("there are rules");
    let rule = Rule::compile(schema).expect("a schema");
    let mut errors = ErrorList::default();
    let before = old.map(|value| Before { value, rule: &rule });
    rules.validate(new, before, true, &Path::ROOT, &mut errors);
    let warnings = errors.take_warnings();
    (errors.0.iter().map(ToString::to_string).collect(), warnings)
}

fn object(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

#[test]
fn broken_rules_are_reported_in_the_words_they_choose() {
    let number = json!({"n": {"type": "integer"}});
    for (rule, wanted) in [
        (json!({"rule": "self.n > 1"}), "<nil>: Invalid value: failed rule: self.n > 1"),
        (json!({"rule": "self.n > 1", "message": " more "}), "<nil>: Invalid value: more"),
        (
            json!({"rule": "self.n > 1", "fieldPath": ".n"}),
            "n: Invalid value: failed rule: self.n > 1",
        ),
        (
            json!({"rule": "self.n > 1", "reason": "FieldValueForbidden", "message": "no"}),
            "<nil>: Forbidden: no",
        ),
        (
            json!({"rule": "self.n > 1", "messageExpression": "'n is ' + string(self.n)"}),
            "<nil>: Invalid value: n is 1",
        ),
        (
            json!({"rule": "self.n > 1", "messageExpression": "''"}),
            "<nil>: Invalid value: failed rule: self.n > 1",
        ),
        (
            json!({"rule": "1 / (self.n - 1) == 2"}),
            r#"<nil>: Invalid value: "object": division by zero evaluating rule: 1 / (self.n - 1) == 2"#,
        ),
    ] {
        let (errors, _) = found(&object(number.clone(), json!([rule])), None, &json!({"n": 1}));
        assert_eq!(errors, [wanted]);
    }
}

#[test]
fn rules_about_a_change_need_an_old_value_unless_it_is_optional() {
    let node = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "shrinks"}]});
    let schema = json!({"type": "object", "properties": {"n": node}});
    let (old, new) = (json!({"n": 2}), json!({"n": 1}));
    assert_eq!(found(&schema, None, &new).0.len(), 0);
    assert_eq!(found(&schema, Some(&json!({})), &new).0.len(), 0);
    assert_eq!(found(&schema, Some(&old), &new).0, ["n: Invalid value: 1: shrinks"]);
    let optional = json!([{"rule": "oldSelf.hasValue() || self == 0", "optionalOldSelf": true, "message": "new"}]);
    let mut schema = schema;
    schema["properties"]["n"]["x-kubernetes-validations"] = optional;
    assert_eq!(found(&schema, Some(&json!({})), &new).0, ["n: Invalid value: 1: new"]);
    assert_eq!(found(&schema, Some(&old), &new).0.len(), 0);
}

#[test]
fn entries_of_keyed_lists_are_followed_by_their_keys() {
    let items = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v", "message": "fixed"}]});
    let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": items});
    let old = json!([{"k": "a", "v": 1}, {"k": "b", "v": 2}]);
    let new = json!([{"k": "b", "v": 2}, {"k": "c", "v": 9}, {"k": "a", "v": 3}]);
    assert_eq!(found(&schema, Some(&old), &new).0, ["[2]: Invalid value: fixed"]);
}

#[test]
fn what_an_update_leaves_alone_is_only_warned_of() {
    let rule = json!([{"rule": "self > 5", "message": "small"}]);
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "x-kubernetes-validations": rule}, "m": {"type": "integer"}}});
    let (errors, warnings) =
        found(&schema, Some(&json!({"n": 1, "m": 1})), &json!({"n": 1, "m": 2}));
    assert_eq!((errors.len(), warnings), (0, vec!["n: Invalid value: 1: small".to_owned()]));
    assert_eq!(found(&schema, Some(&json!({"n": 2})), &json!({"n": 1})).0.len(), 1);
}

#[test]
fn all_rules_of_an_object_share_a_budget() {
    let rule = json!({"rule": "self.all(x, self.all(y, x + y >= 0))"});
    let schema = json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": vec![rule; 40]});
    let (errors, _) = found(&schema, None, &json!(vec![1; 250]));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("running out of cost budget"), "{errors:?}");
}
