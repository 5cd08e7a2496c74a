//! Which devices a class or a request is about: the expression, and how it sees a device.
//!
//! Text -> a program, once per object that holds it; a device -> yes, no, or why that cannot be told. Counterpart:
//! `dynamic-resource-allocation/cel`. What the expression may refer to is said where it is validated (`skiff_api`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::DeviceSelector;
use skiff_api::kinds::resource::selector::{COST_MAX, Fault, compile};
use skiff_cel::{Key, Program, Value};

use super::slice::{Attribute, DeviceInfo};

#[derive(Debug)]
pub struct Selector(Result<Program, Fault>);

/// Values by domain, and there by name.
type Domains<'a> = BTreeMap<Key, BTreeMap<Key, Value<'a>>>;

// === impl Selector ===

impl Selector {
    pub fn all(selectors: Option<Vec<DeviceSelector>>) -> Vec<Arc<Selector>> {
        let texts = selectors.into_iter().flatten().map(|selector| selector.cel);
        let text = texts.map(|cel| cel.map(|cel| cel.expression).unwrap_or_default());
        text.map(|text| Arc::new(Selector(compile(&text)))).collect()
    }

    /// The error is of the expression, or of what it finds in the device.
    pub fn selects(&self, device: &DeviceInfo) -> Result<bool, String> {
        let program = self.0.as_ref().map_err(|fault| format!("CEL compile error: {fault}"))?;
        let variables = [("device", as_value(device)?)];
        match program.evaluate(&variables, COST_MAX).value {
            Ok(Value::Bool(selects)) => Ok(selects),
            Ok(other) => Err(format!(
                "CEL runtime error: CEL result of type {} could not be converted to bool",
                other.cel_type()
            )),
            Err(error) => Err(format!("CEL runtime error: {error}")),
        }
    }
}

fn as_value(device: &DeviceInfo) -> Result<Value<'_>, String> {
    let mut attributes = Domains::new();
    for (name, attribute) in &device.attributes {
        let value = match attribute {
            Attribute::Int(number) => Some(Value::Int(*number)),
            Attribute::Bool(truth) => Some(Value::Bool(*truth)),
            Attribute::Text(text) => Some(Value::text(text)),
            Attribute::Version(text) => Value::semver(text),
            Attribute::Unknown => None,
        };
        let unsupported = || format!("attribute {name}: unsupported attribute value");
        enter(&mut attributes, name, value.ok_or_else(unsupported)?);
    }
    let mut capacity = Domains::new();
    for (name, size) in &device.capacity {
        if let Some(size) = Value::quantity(&size.0) {
            enter(&mut capacity, name, size);
        }
    }
    let fields = [
        ("driver", Value::text(&device.id.driver)),
        ("allowMultipleAllocations", Value::Bool(device.shareable)),
        ("attributes", by_domain(attributes)),
        ("capacity", by_domain(capacity)),
    ];
    Ok(Value::map(fields.into_iter().map(|(name, value)| (key(name), value)).collect()))
}

fn enter<'a>(domains: &mut Domains<'a>, name: &str, value: Value<'a>) {
    let (domain, id) = name.split_once('/').unwrap_or(("", name));
    domains.entry(key(domain)).or_default().insert(key(id), value);
}

/// A domain of which the device says nothing is empty, not missing.
fn by_domain(domains: Domains<'_>) -> Value<'_> {
    Value::open_map(domains.into_iter().map(|(name, all)| (name, Value::map(all))).collect())
}

fn key(text: &str) -> Key {
    Key::String(text.into())
}
