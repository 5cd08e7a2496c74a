//! A v3 path with its operations, as Swagger 2.0 writes them.
//!
//! Media types stand beside an operation rather than above each schema, a body is a parameter, and
//! the type of a plain parameter stands in the parameter itself.

use serde_json::{Map, Value, json};

use super::schema;

pub fn path_item(item: &Value) -> Value {
    let members = item.as_object().into_iter().flatten();
    let rewritten = members.map(|(name, value)| {
        let value = match name.as_str() {
            "parameters" => parameters(value).into(),
            _ => operation(value),
        };
        (name.clone(), value)
    });
    Value::Object(rewritten.collect())
}

fn operation(v3: &Value) -> Value {
    let mut out = v3.as_object().cloned().unwrap_or_default();
    let mut takes = parameters(&v3["parameters"]);
    let body = out.remove("requestBody");
    takes.extend(body.as_ref().map(body_parameter));
    let consumes = body.as_ref().map(|body| media_types(&body["content"])).unwrap_or_default();
    let any = || vec!["*/*".to_owned()];
    out.insert("consumes".to_owned(), if consumes.is_empty() { any() } else { consumes }.into());
    out.insert("produces".to_owned(), media_types(&v3["responses"]["200"]["content"]).into());
    out.insert("schemes".to_owned(), json!(["https"]));
    out.insert("parameters".to_owned(), takes.into());
    out.insert("responses".to_owned(), responses(&v3["responses"]));
    Value::Object(out)
}

fn responses(v3: &Value) -> Value {
    let rewritten = v3.as_object().into_iter().flatten().map(|(code, response)| {
        let mut out = json!({"description": response["description"]});
        if let Some(of) = first_schema(&response["content"]) {
            out["schema"] = schema::rewrite(of);
        }
        (code.clone(), out)
    });
    Value::Object(rewritten.collect())
}

fn parameters(v3: &Value) -> Vec<Value> {
    v3.as_array().into_iter().flatten().map(parameter).collect()
}

fn parameter(v3: &Value) -> Value {
    let mut out: Map<String, Value> = v3.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(of)) = out.remove("schema") {
        out.extend(of);
    }
    Value::Object(out)
}

fn body_parameter(body: &Value) -> Value {
    let mut out = json!({"name": "body", "in": "body"});
    if body["required"] == true {
        out["required"] = true.into();
    }
    if let Some(of) = first_schema(&body["content"]) {
        out["schema"] = schema::rewrite(of);
    }
    out
}

fn media_types(content: &Value) -> Vec<String> {
    content.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// Every media type of an operation carries the same schema.
fn first_schema(content: &Value) -> Option<&Value> {
    content.as_object()?.values().next()?.get("schema")
}
