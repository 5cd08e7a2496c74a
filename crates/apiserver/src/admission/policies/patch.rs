//! What a mutation's expression evaluates to, put into the object.
//!
//! [`Mutation`] + object -> changed object, or why not. Counterpart: `policy/mutating/patch`. An apply configuration is merged
//! as server-side apply merges, with the difference that it owns nothing and may not touch what is atomic.

use serde_json::{Map, Value as Json};
use skiff_api::KindDef;
use skiff_api::apply;
use skiff_api::patch::json::{Misfit, Operation, apply_or_explain};
use skiff_cel::{RUNTIME_BUDGET, Value};

use super::Invocation;
use super::policy::Mutation;
use crate::admission::evaluation::{Evaluation, Failure, Subject};

pub fn mutated(
    mutation: &Mutation,
    invocation: &Invocation<'_>,
    kind: &KindDef,
    subject: &Subject,
) -> Result<Json, String> {
    let params = invocation.params.as_ref();
    let variables = &invocation.policy.variables;
    let evaluation = Evaluation::new(subject, params, variables, RUNTIME_BUDGET);
    let object = subject.object.clone();
    match mutation {
        Mutation::Apply(expression) => {
            let value = evaluation.evaluate(expression).map_err(Failure::into_message)?;
            merge(object, &value, kind)
        }
        Mutation::JsonPatch(expression) => {
            let value = evaluation.evaluate(expression).map_err(Failure::into_message)?;
            patch(object, &value)
        }
    }
}

// === JSON patches ===

fn patch(object: Json, value: &Value<'_>) -> Result<Json, String> {
    let Value::List(operations) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let operations = operations.to_vec().map_err(|error| error.to_string())?;
    let operations: Result<Vec<Operation>, String> = operations.iter().map(operation).collect();
    let operations = operations?;
    match apply_or_explain(object.clone(), &operations) {
        Ok(patched) => Ok(patched),
        // A test that fails is a condition that is not met.
        Err(Misfit::FailedTest(_)) => Ok(object),
        Err(fault) => Err(format!("JSON Patch: {fault}")),
    }
}

fn operation(value: &Value<'_>) -> Result<Operation, String> {
    let Value::Object(made) = value else {
        return Err(
            "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch"
                .to_owned(),
        );
    };
    let mut operation = Map::new();
    for (field, value) in &made.fields {
        if let Value::Object(made) = value {
            check_names(value, &made.type_name)?;
        }
        let value = value
            .to_json()
            .ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?;
        operation.insert(field.clone(), value);
    }
    Ok(operation.into())
}

// === apply configurations ===

fn merge(object: Json, value: &Value<'_>, kind: &KindDef) -> Result<Json, String> {
    check_names(value, "Object")?;
    let made = value.to_json();
    let Some(Json::Object(mut configuration)) = made else {
        return Err(format!(
            "unsupported return type from ApplyConfiguration expression: {}",
            value.cel_type()
        ));
    };
    for field in ["apiVersion", "kind"] {
        configuration.insert(field.to_owned(), object[field].clone());
    }
    let configuration = Json::Object(configuration);
    let faults = apply::check(&configuration, &kind.schema);
    if !faults.is_empty() {
        let shown = match faults.as_slice() {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        return Err(format!(
            "error applying patch: failed to convert patch object to typed object: {shown}"
        ));
    }
    let atomics = apply::atomics(&configuration, &kind.schema);
    if !atomics.is_empty() {
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    Ok(apply::merge(&object, &configuration, &kind.schema))
}

/// `Object.spec.template` may only stand where the path says so.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Object(made) => {
            if *made.type_name != *path {
                return Err(format!(
                    "type mismatch: unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    made.type_name
                ));
            }
            made.fields
                .iter()
                .try_for_each(|(field, value)| check_names(value, &format!("{path}.{field}")))
        }
        Value::List(list) => {
            let items = list.to_vec().map_err(|error| error.to_string())?;
            items.iter().try_for_each(|item| check_names(item, path))
        }
        _ => Ok(()),
    }
}
