//! ServiceCIDR: the ranges that cluster addresses are taken from, one for each IP family.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::list;
use crate::kinds::rules::{parse_cidr, strict_cidr};

pub struct ServiceCIDR;

impl Strategy for ServiceCIDR {
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let ranges = spec.child("cidrs");
        match ranges.list().len() {
            0 => return ranges.required(errors, "at least one CIDR required"),
            1 => {}
            2 => {
                let v4 = ranges.items().filter_map(|r| parse_cidr(r.text()));
                if v4.filter(|(address, _)| address.is_ipv4()).count() != 1 {
                    let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                    ranges.invalid(errors, detail);
                }
            }
            _ => {
                let shown = printed("networking.ServiceCIDRSpec", spec.value);
                let detail = "may only hold up to 2 values";
                return errors.invalid_printed(&ranges.path, shown, detail);
            }
        }
        ranges.items().for_each(|range| range.obeys(errors, strict_cidr));
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        spec.child("cidrs").unchanged(errors, &was.child("cidrs"));
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
