//! CustomResourceDefinition -> [`KindDef`]s, the same values built-in kinds have.
//!
//! A structural schema becomes a [`Schema`](crate::Schema) graph (pruning, defaults, apply) and a
//! tree of [`rules`](rules::Rule) (validation); printer columns become Table cells. Counterpart:
//! `apiextensions-apiserver`. CEL rules are not evaluated yet.

pub mod definition;
mod jsonpath;
mod rules;
mod structural;

use std::sync::Arc;

use serde_json::Value;

pub use jsonpath::JsonPath;

use crate::age;
use crate::field::{ErrorList, Path};
use crate::kind::{Column, GroupVersion, KindDef, ScalePaths, Strategy, Subresource};
use crate::schema::StructRef;
use rules::Rule;

/// The order in which upstream lists the verbs of custom resources.
const VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// The kinds that a definition serves, one per served version. The definition must be valid; what
/// cannot be read says why.
pub fn kinds(definition: &Value) -> Result<Vec<KindDef>, String> {
    let spec = definition.get("spec").ok_or("the definition has no spec")?;
    let versions = list(spec, "versions");
    let storage = versions
        .iter()
        .find(|version| version["storage"] == true)
        .ok_or("no version is marked as storage version")?;
    let storage = GroupVersion::new(text(spec, "group"), text(storage, "name"));
    versions
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| kind(definition, spec, version, &storage))
        .collect()
}

fn kind(
    definition: &Value,
    spec: &Value,
    version: &Value,
    storage: &GroupVersion,
) -> Result<KindDef, String> {
    let accepted = definition.pointer("/status/acceptedNames");
    let names = accepted
        .filter(|names| !text(names, "plural").is_empty())
        .or_else(|| spec.get("names"))
        .ok_or("the definition has no names")?;
    let (group, plural, kind) = (text(spec, "group"), text(names, "plural"), text(names, "kind"));
    let schema = version.pointer("/schema/openAPIV3Schema").ok_or("the version has no schema")?;
    let subresources = subresources(version, group, kind);
    let strategy = Custom {
        kind: kind.to_owned(),
        rule: Rule::compile(schema)?,
        columns: cells(version)?,
        has_status: subresources.iter().any(|sub| sub.name == "status"),
    };
    let or = |field: &str, other: String| match text(names, field) {
        "" => other,
        given => given.to_owned(),
    };
    Ok(KindDef {
        group: group.to_owned(),
        version: text(version, "name").to_owned(),
        kind: kind.to_owned(),
        list_kind: or("listKind", format!("{kind}List")),
        resource: plural.to_owned(),
        singular: or("singular", kind.to_lowercase()),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
        subresources,
        columns: columns(&strategy.columns),
        schema: StructRef::Custom(Arc::new(structural::root(schema, kind))),
        strategy: Arc::new(strategy),
        storage_version: storage.clone(),
        key_prefix: format!("/registry/{group}/{plural}/"),
        custom: true,
        selectable: selectable(version),
        scale: scale(version),
        document: Some(Arc::new(schema.clone())),
    })
}

fn subresources(version: &Value, group: &str, kind: &str) -> Vec<Subresource> {
    let verbs: Vec<String> = ["get", "patch", "update"].map(str::to_owned).to_vec();
    let subresource = |name: &str, group: &str, version: &str, kind: &str| Subresource {
        name: name.to_owned(),
        verbs: verbs.clone(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
    };
    let mut found = Vec::new();
    let declared = |name: &str| {
        version.pointer(&format!("/subresources/{name}")).is_some_and(Value::is_object)
    };
    if declared("status") {
        found.push(subresource("status", group, text(version, "name"), kind));
    }
    if declared("scale") {
        found.push(subresource("scale", "autoscaling", "v1", "Scale"));
    }
    found
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version.pointer("/subresources/scale")?;
    let pointer = |field: &str| text(scale, field).replace('.', "/");
    let selector = Some(pointer("labelSelectorPath")).filter(|path| !path.is_empty());
    Some(ScalePaths {
        spec_replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector,
    })
}

fn selectable(version: &Value) -> Vec<(String, String)> {
    let field = |entry: &Value| {
        let path = text(entry, "jsonPath");
        (path.trim_start_matches('.').to_owned(), path.replace('.', "/"))
    };
    list(version, "selectableFields").iter().map(field).collect()
}

/// One printer column.
struct Cell {
    name: String,
    of: String,
    format: String,
    priority: i32,
    path: JsonPath,
}

fn cells(version: &Value) -> Result<Vec<Cell>, String> {
    let declared = list(version, "additionalPrinterColumns");
    if declared.is_empty() {
        let path = JsonPath::parse(".metadata.creationTimestamp")?;
        let name = "Age".to_owned();
        return Ok(vec![Cell {
            name,
            of: "date".to_owned(),
            format: String::new(),
            priority: 0,
            path,
        }]);
    }
    let cell = |column: &Value| {
        Ok(Cell {
            name: text(column, "name").to_owned(),
            of: text(column, "type").to_owned(),
            format: text(column, "format").to_owned(),
            priority: column["priority"].as_i64().and_then(|n| n.try_into().ok()).unwrap_or(0),
            path: JsonPath::parse(text(column, "jsonPath"))?,
        })
    };
    declared.iter().map(cell).collect()
}

fn columns(cells: &[Cell]) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        of: "string".to_owned(),
        format: "name".to_owned(),
        priority: 0,
    };
    let column = |cell: &Cell| Column {
        name: cell.name.clone(),
        of: cell.of.clone(),
        format: cell.format.clone(),
        priority: cell.priority,
    };
    std::iter::once(name).chain(cells.iter().map(column)).collect()
}

/// The strategy of every custom kind.
struct Custom {
    kind: String,
    rule: Rule,
    columns: Vec<Cell>,
    has_status: bool,
}

impl Strategy for Custom {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let given = text(object, "kind");
        if given != self.kind {
            errors.invalid(&Path::new("kind"), given, format!("must be {}", self.kind));
        }
        self.rule.validate_root(object, errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        self.rule.validate_root(object, errors);
    }

    fn counts_generation(&self, _kind: &KindDef) -> bool {
        true
    }

    /// Everything counts that is not metadata, and not status where that is a subresource.
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        let counted = |object: &Value| -> Vec<(String, Value)> {
            let skip = |name: &str| name == "metadata" || (name == "status" && self.has_status);
            let fields = object.as_object().into_iter().flatten();
            fields.filter(|(name, _)| !skip(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        counted(object) != counted(old)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        let cell = self.columns.iter().find(|cell| cell.name == column);
        cell.map_or(Value::Null, |cell| cell.show(object, now))
    }
}

impl Cell {
    fn show(&self, object: &Value, now: i64) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (self.of.as_str(), *first) {
            (_, Value::Null) => Value::Null,
            ("integer", value) => value.as_i64().or(value.as_f64().map(|f| f as i64)).into(),
            ("number", value) => value.as_f64().into(),
            ("boolean", value) => value.as_bool().into(),
            ("date", Value::String(time)) => age::since(time, now).into(),
            ("date", _) => "<unknown>".into(),
            (_, Value::String(text)) if found.len() == 1 => text.clone().into(),
            _ => JsonPath::print(&found).into(),
        }
    }
}

// === reading the definition ===

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
