//! ServiceCIDR: the ranges that cluster addresses are taken from, one for each IP family.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kind::{
    FieldPaths, KindDef, META_AND_SPEC, SETTLED_META, Strategy, keep_all_but_status, keep_meta,
};
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::fill::list;
use crate::kinds::rules::{canonical_cidr, parse_cidr};

pub struct ServiceCIDR;

impl Strategy for ServiceCIDR {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        keep_meta(object, old, SETTLED_META);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let ranges = spec.child("cidrs");
        match ranges.list().len() {
            0 => return ranges.required(errors, "at least one CIDR required"),
            1 | 2 => {}
            _ => {
                let shown = printed("networking.ServiceCIDRSpec", spec.value);
                let detail = "may only hold up to 2 values";
                return errors.invalid_printed(&ranges.path, shown, detail);
            }
        }
        ranges.items().for_each(|range| range.obeys(errors, canonical_cidr));
        let is_v4 = |range: &Value| {
            parse_cidr(range.as_str().unwrap_or_default()).map(|(address, _)| address.is_ipv4())
        };
        if let [one, other] = ranges.list()
            && is_v4(one).is_some()
            && is_v4(one) == is_v4(other)
        {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            ranges.invalid(errors, detail);
        }
    }

    /// A second range may be added; what is there stays.
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        let (ranges, before) = (spec.child("cidrs"), was.child("cidrs"));
        let grows = match (before.list().len(), ranges.list().len()) {
            (had, has) if had == has => false,
            (1, 2) => true,
            _ => return ranges.invalid(errors, IMMUTABLE),
        };
        for (range, before) in ranges.items().zip(before.items()) {
            range.unchanged(errors, &before);
        }
        if grows {
            self.validate(object, errors);
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "CIDRs" => {
                let ranges = list(object, "/spec/cidrs").iter().filter_map(Value::as_str);
                ranges.collect::<Vec<_>>().join(",").into()
            }
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "networking.k8s.io/v1/servicecidrs";

    fn of(ranges: &str) -> String {
        format!("spec: {{cidrs: [{ranges}]}}")
    }

    #[test]
    fn ranges_are_of_one_family_each() {
        check(PATH, &of("10.0.0.0/24, 'fd00::/112'"), &[]);
        check(
            PATH,
            &of("10.0.0.0/24, 10.1.0.0/24"),
            &[
                "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ],
        );
    }

    #[test]
    fn a_second_range_may_come_and_nothing_may_go() {
        let (one, two) = (of("10.0.0.0/24"), of("10.0.0.0/24, 'fd00::/112'"));
        check_update(PATH, &one, &two, &[]);
        check_update(
            PATH,
            &two,
            &one,
            &["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"],
        );
        check_update(
            PATH,
            &one,
            &of("10.0.1.0/24"),
            &["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"],
        );
    }
}
