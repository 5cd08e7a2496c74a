//! LimitRange: bounds and defaults for what Pods, containers and claims of a namespace ask for.
//!
//! Counterparts: `SetDefaults_LimitRangeItem`, `ValidateLimitRange`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::{Object, each, made, object_at};
use crate::kinds::resources::{
    may_be_overcommitted, quantity, validate_container_resource_name, validate_resource_name,
};
use crate::quantity::Quantity;
use crate::validation::qualified_name;

pub struct LimitRange;

impl Strategy for LimitRange {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default(&self, root: &mut Value) {
        let Some(spec) = object_at(root, "/spec") else { return };
        for item in each(spec, "limits") {
            if item.get("type").and_then(Value::as_str) == Some("Container") {
                default_container(item);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let mut types = HashSet::new();
        for item in spec.child("limits").items() {
            let of = item.child("type");
            validate_type(&of, errors);
            if !types.insert(of.text().to_owned()) {
                of.duplicate(errors);
            }
            validate_item(&item, of.text(), errors);
        }
    }
}

/// The default limit is the most that is allowed, the default request the default limit, or else
/// the least.
fn default_container(item: &mut Object) {
    for (field, from) in
        [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
    {
        let source = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        // Written even where nothing is known, as upstream's maps are made first.
        let Some(target) = made(item, field) else { continue };
        for (name, amount) in source {
            target.entry(name).or_insert(amount);
        }
    }
}

fn validate_type(of: &At, errors: &mut ErrorList) {
    let faults = qualified_name(of.text());
    let plain = !of.text().contains('/');
    let known = ["Pod", "Container", "PersistentVolumeClaim"].contains(&of.text());
    if faults.is_empty() && plain && !known {
        of.invalid(errors, "must be a standard limit type or fully qualified");
    }
    faults.into_iter().for_each(|fault| of.invalid_as(errors, of.text(), fault));
}

type Amounts = BTreeMap<&'static str, BTreeMap<String, Quantity>>;

fn validate_item(item: &At, of: &str, errors: &mut ErrorList) {
    let mut amounts = Amounts::new();
    take_amounts(item, of, &["max", "min"], &mut amounts, errors);
    let defaults = ["default", "defaultRequest"];
    match of {
        "Pod" => {
            for field in defaults {
                if !item.child(field).is_empty() {
                    let detail = "may not be specified when `type` is 'Pod'";
                    item.child(field).forbidden(errors, detail);
                }
            }
        }
        _ => take_amounts(item, of, &defaults, &mut amounts, errors),
    }
    if of == "PersistentVolumeClaim" {
        let bounded = |field: &str| item.child(field).has("storage");
        if !bounded("min") && !bounded("max") {
            let detail =
                "either minimum or maximum storage value is required, but neither was provided";
            item.child("limits").required(errors, detail);
        }
    }
    take_amounts(item, of, &["maxLimitRequestRatio"], &mut amounts, errors);
    let names: BTreeSet<&String> = amounts.values().flat_map(BTreeMap::keys).collect();
    for name in names {
        let of = |field: &str| amounts.get(field).and_then(|amounts| amounts.get(name)).copied();
        compare(item, name, of, errors);
        validate_ratio(item, name, of, errors);
        validate_overcommit(item, name, of, errors);
    }
}

fn take_amounts(
    item: &At,
    of: &str,
    fields: &[&'static str],
    amounts: &mut Amounts,
    errors: &mut ErrorList,
) {
    for field in fields {
        for (name, at) in item.child(field).entries() {
            match of {
                "Pod" | "Container" => validate_container_resource_name(name, &at, errors),
                _ => drop(validate_resource_name(name, &at, errors)),
            }
            if let Some(amount) = quantity(at.value) {
                amounts.entry(field).or_default().insert(name.to_owned(), amount);
            }
        }
    }
}

/// Which amounts may not pass which: field, what it is called, the other, what that is called, and
/// which of the two is reported.
const ORDER: &[(&str, &str, &str, &str, &str)] = &[
    ("min", "min value", "max", "max value", "min"),
    ("min", "min value", "defaultRequest", "default request value", "defaultRequest"),
    ("defaultRequest", "default request value", "max", "max value", "defaultRequest"),
    ("defaultRequest", "default request value", "default", "default limit value", "defaultRequest"),
    ("min", "min value", "default", "default value", "default"),
    ("default", "default value", "max", "max value", "default"),
];

fn compare(item: &At, name: &str, of: impl Fn(&str) -> Option<Quantity>, errors: &mut ErrorList) {
    for (less, less_name, more, more_name, reported) in ORDER {
        let (Some(less_amount), Some(more_amount)) = (of(less), of(more)) else { continue };
        if less_amount > more_amount {
            // Upstream shows the bound where a default passes the maximum.
            let shown = match (*less, *more) {
                ("min", "max" | "default") => less_amount,
                ("default", _) => more_amount,
                _ if reported == less => less_amount,
                _ => more_amount,
            };
            let detail =
                format!("{less_name} {less_amount} is greater than {more_name} {more_amount}");
            let place = item.child(reported);
            errors.invalid(&place.path.key(name), shown.to_string(), detail);
        }
    }
}

/// How far a limit may pass its request: at least as far as it is, at most as far as the bounds are
/// apart.
fn validate_ratio(
    item: &At,
    name: &str,
    of: impl Fn(&str) -> Option<Quantity>,
    errors: &mut ErrorList,
) {
    let Some(ratio) = of("maxLimitRequestRatio") else { return };
    let place = item.child("maxLimitRequestRatio");
    let mut refuse = |detail: String| {
        errors.invalid(&place.path.key(name), ratio.to_string(), detail);
    };
    if ratio < Quantity::from_units(1) {
        refuse(format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (of("min"), of("max")) {
        let apart = max.milli() as f64 / min.milli() as f64;
        if ratio.milli() as f64 / 1000.0 > apart {
            refuse(format!("ratio {ratio} is greater than max/min = {apart:.6}"));
        }
    }
}

/// What cannot be overcommitted is limited to what is requested.
fn validate_overcommit(
    item: &At,
    name: &str,
    of: impl Fn(&str) -> Option<Quantity>,
    errors: &mut ErrorList,
) {
    let (Some(limit), Some(request)) = (of("default"), of("defaultRequest")) else { return };
    if !may_be_overcommitted(name) && limit != request {
        let place = item.child("defaultRequest");
        let detail =
            format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid(&place.path.key(name), request.to_string(), detail);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    const PATH: &str = "v1/limitranges";

    #[test]
    fn a_ratio_beyond_the_bounds_went_unseen() {
        check(
            PATH,
            "spec: {limits: [{type: Container, min: {cpu: 1}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 10}}]}",
            &[
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"10\": ratio 10 is greater than max/min = 2.000000",
            ],
        );
    }

    #[test]
    fn what_cannot_be_overcommitted_is_requested_as_it_is_limited() {
        check(
            PATH,
            "spec: {limits: [{type: Container, default: {a.b/gpu: 2}, defaultRequest: {a.b/gpu: 1}}]}",
            &[
                "spec.limits[0].defaultRequest[a.b/gpu]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in a.b/gpu",
            ],
        );
    }
}
