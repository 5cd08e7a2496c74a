//! Printer columns of custom resources: what `kubectl get` shows beside the name.
//!
//! `additionalPrinterColumns` -> [`Cell`]s -> cells of a Table row. Counterpart: `customresource/tableconvertor`. A value that
//! is not of the column's type leaves the cell empty.

use serde_json::Value;

use super::jsonpath::JsonPath;
use super::{list, text};
use crate::age;
use crate::kind::Column;

/// One printer column.
pub struct Cell {
    pub name: String,
    of: String,
    format: String,
    priority: i32,
    description: String,
    path: JsonPath,
}

/// The columns of a version: those it declares, else the age. One that cannot be read takes all after it along, as the
/// definition was accepted by its looks alone.
pub fn cells(version: &Value) -> Vec<Cell> {
    let declared = list(version, "additionalPrinterColumns");
    if declared.is_empty() {
        let path = JsonPath::parse(".metadata.creationTimestamp").expect("a path");
        let (name, of) = ("Age".to_owned(), "date".to_owned());
        let (format, description) = (String::new(), String::new());
        return vec![Cell { name, of, format, priority: 0, description, path }];
    }
    declared.iter().map_while(Cell::read).collect()
}

/// The columns of the Table.
pub fn columns(cells: &[Cell]) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        of: "string".to_owned(),
        format: "name".to_owned(),
        priority: 0,
        description: String::new(),
    };
    let column = |cell: &Cell| Column {
        name: cell.name.clone(),
        of: cell.of.clone(),
        format: cell.format.clone(),
        priority: cell.priority,
        description: cell.description.clone(),
    };
    std::iter::once(name).chain(cells.iter().map(column)).collect()
}

// === impl Cell ===

impl Cell {
    fn read(column: &Value) -> Option<Cell> {
        Some(Cell {
            name: text(column, "name").to_owned(),
            of: text(column, "type").to_owned(),
            format: text(column, "format").to_owned(),
            priority: column["priority"].as_i64().and_then(|n| n.try_into().ok()).unwrap_or(0),
            description: match text(column, "description") {
                "" => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    text(column, "jsonPath")
                ),
                words => words.to_owned(),
            },
            path: JsonPath::parse(text(column, "jsonPath")).ok()?,
        })
    }

    /// The first thing the path leads to.
    pub fn show(&self, object: &Value, now: i64) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (self.of.as_str(), *first) {
            ("string", value) => printed(value).into(),
            ("integer", value) => value.as_i64().or(value.as_f64().map(|f| f as i64)).into(),
            ("number", value) => value.as_f64().into(),
            ("boolean", value) => value.as_bool().into(),
            ("date", Value::String(time)) => age::since(time, now).into(),
            _ => Value::Null,
        }
    }
}

/// A value as text, as Go prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        number @ Value::Number(_) => super::rules::printed(number),
        other => other.to_string(),
    }
}
