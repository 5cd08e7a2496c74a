//! The served API as OpenAPI v3 documents, one per group and version.
//!
//! [`Kinds`] -> index and documents; schemas come from the schema graph, their prose from the types
//! of `k8s-openapi`, paths from names and verbs. Everything is made on demand: a server whose clients
//! never ask never pays. Counterpart: `kube-openapi/pkg/builder3` and `handler3`. [`v2`] rewrites the
//! same schemas and paths as one Swagger 2.0 document.

mod custom;
mod enums;
mod paths;
mod prose;
mod schemas;
mod services;
pub mod v2;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::codec::api_version;
use crate::kind::{KindDef, Kinds};

/// `/openapi/v3`: where each document is; the hash changes with what is served. `version` is the
/// release, so that a newer server's documents are fetched anew.
pub fn index(kinds: &Kinds, version: &str) -> Value {
    let entry = |path: String, group: &str, of: &str| {
        let hash = hash(kinds, group, of, version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({"serverRelativeURL": url}))
    };
    let mut found: Map<String, Value> = Map::new();
    for kind in kinds.iter() {
        let path = path_of(&kind.group, &kind.version);
        if !found.contains_key(&path) {
            found.extend([entry(path, &kind.group, &kind.version)]);
        }
    }
    for service in services::all(kinds) {
        // The release says all about it.
        found.extend([entry(service.path, "", "")]);
    }
    json!({"paths": found})
}

/// The document at a path of the index; `None` if nothing is served there.
pub fn at(kinds: &Kinds, path: &str, release: &str) -> Option<Value> {
    let service = services::all(kinds).into_iter().find(|service| service.path == path);
    match (service, &path.split('/').collect::<Vec<_>>()[..]) {
        (Some(service), _) => {
            let mut components = schemas::Components::default();
            let (path, item) = service.item(&mut components);
            let mut found = finished([(path, item)].into_iter().collect(), components, release);
            if found["components"]["schemas"].as_object().is_some_and(Map::is_empty) {
                found["components"].as_object_mut()?.remove("schemas");
            }
            Some(found)
        }
        (None, ["api", version]) => document(kinds, "", version, release),
        (None, ["apis", group, version]) => document(kinds, group, version, release),
        _ => None,
    }
}

/// The document of one group and version; `None` if nothing is served there.
fn document(kinds: &Kinds, group: &str, version: &str, release: &str) -> Option<Value> {
    let served: Vec<&KindDef> = kinds.in_version(group, version).map(AsRef::as_ref).collect();
    if served.is_empty() {
        return None;
    }
    let mut components = schemas::Components::default();
    let mut found = Map::new();
    let is_custom = served.iter().all(|kind| kind.custom);
    if !is_custom {
        paths::add_discovery(group, version, &mut components, &mut found);
    }
    for kind in served {
        paths::add(kind, &mut components, &mut found);
    }
    Some(match is_custom {
        true => json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
            "paths": found,
            "components": {"schemas": components.finish()},
        }),
        false => finished(found, components, release),
    })
}

fn finished(paths: Map<String, Value>, components: schemas::Components, release: &str) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "components": {"schemas": components.finish(), "securitySchemes": {"BearerToken": {
            "type": "apiKey",
            "description": "Bearer Token authentication",
            "name": "authorization",
            "in": "header",
        }}},
    })
}

/// `api/v1` or `apis/apps/v1`: the path of a document below `/openapi/v3/`.
pub fn path_of(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => format!("api/{version}"),
        false => format!("apis/{group}/{version}"),
    }
}

/// Changes with the document of a group and version; `None` for other paths.
pub fn hash_at(kinds: &Kinds, path: &str, release: &str) -> Option<String> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => Some(hash(kinds, "", version, release)),
        ["apis", group, version] => Some(hash(kinds, group, version, release)),
        _ => None,
    }
}

/// Names and shapes of what is served there: for custom kinds their schemas, for built-in ones the
/// release says all.
fn hash(kinds: &Kinds, group: &str, version: &str, release: &str) -> String {
    let mut digest = Sha512::new();
    digest.update(release);
    digest.update(api_version(group, version));
    for kind in kinds.in_version(group, version) {
        digest.update(&kind.resource);
        digest.update(&kind.kind);
        digest.update(&kind.list_kind);
        digest.update([u8::from(kind.namespaced)]);
        kind.selectable.iter().for_each(|(path, _)| digest.update(path));
        if let Some(schema) = &kind.document {
            digest.update(schema.to_string());
        }
        kind.subresources.iter().for_each(|sub| digest.update(&sub.name));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn documents_say_what_explain_and_validation_need() {
        let kinds = kinds::builtin();
        let document = document(&kinds, "apps", "v1", "1.36").expect("served");
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
        );
        let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(spec["required"], json!(["selector", "template"]));
        let replicas = &spec["properties"]["replicas"];
        assert!(replicas["description"].as_str().is_some_and(|text| text.starts_with("Number of")));
        assert_eq!(
            spec["properties"]["template"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec"
        );
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"), "{names:?}");
    }

    #[test]
    fn every_way_to_a_kind_is_described() {
        let document = document(&kinds::builtin(), "", "v1", "1.36").expect("served");
        let action = |path: &str, method: &str| {
            document["paths"][path][method]["x-kubernetes-action"].as_str().unwrap_or("")
        };
        assert_eq!(action("/api/v1/pods", "get"), "list");
        assert_eq!(action("/api/v1/watch/pods", "get"), "watchlist");
        assert_eq!(action("/api/v1/watch/namespaces/{namespace}/pods/{name}", "get"), "watch");
        assert!(document["paths"]["/api/v1/"]["get"].is_object());
        assert!(document["paths"]["/api/v1/nodes/{name}/proxy/{path}"].is_object());
        let port = &document["components"]["schemas"]["io.k8s.api.core.v1.ServicePort"];
        assert_eq!(port["properties"]["port"]["default"], 0);
    }

    #[test]
    fn services_have_documents_of_their_own() {
        let kinds = kinds::builtin();
        let schema_at = |path: &str| {
            let document = at(&kinds, path, "1.36").expect(path);
            let answer = &document["paths"][format!("/{path}/")]["get"]["responses"]["200"];
            answer["content"]["application/json"]["schema"].clone()
        };
        let named = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        assert_eq!(schema_at("version"), named("io.k8s.apimachinery.pkg.version.Info"));
        let group = named("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup");
        assert_eq!(schema_at("apis/apps"), group);
        assert_eq!(schema_at("openid/v1/jwks"), json!({"type": "string"}));
        let keys = at(&kinds, "openid/v1/jwks", "1.36").expect("served");
        assert_eq!(keys["info"], json!({"title": "Kubernetes", "version": "1.36"}));
        assert!(keys["components"].get("schemas").is_none());
        assert!(keys["components"]["securitySchemes"]["BearerToken"].is_object());
        assert!(at(&kinds, "apis/none", "").is_none() && at(&kinds, "apis/none/v1", "").is_none());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let kinds = kinds::builtin();
        let index = index(&kinds, "v1.36.2");
        for path in index["paths"].as_object().expect("a map").keys() {
            let document = at(&kinds, path, "1.36").expect("in the index");
            let none = Map::new();
            let known = document["components"]["schemas"].as_object().unwrap_or(&none);
            let text = document.to_string();
            for part in text.split("\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap_or_default();
                assert!(known.contains_key(name), "{path}: {name}");
            }
        }
    }

    #[test]
    fn another_group_left_a_document_as_it_was() {
        let kinds_of = |group: &str, list_kind: &str| {
            let definition = json!({"spec": {"group": group, "scope": "Cluster",
                "names": {"plural": "things", "kind": "Thing", "listKind": list_kind},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
            crate::custom::kinds(&definition).expect("valid")
        };
        let hash = |kinds: Kinds| hash_at(&kinds, "apis/a.example.com/v1", "v1.36.2");
        let alone = hash(kinds_of("a.example.com", "Things").into_iter().collect());
        let both = kinds_of("a.example.com", "Things").into_iter();
        let both = both.chain(kinds_of("b.example.com", "Things")).collect();
        assert_eq!(alone, hash(both));
        let renamed = kinds_of("a.example.com", "ThingList").into_iter().collect();
        assert_ne!(alone, hash(renamed));
    }

    #[test]
    fn custom_kinds_are_published_with_their_prose() {
        let definition = json!({"spec": {"group": "g.example.com", "scope": "Cluster",
            "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "description": "A thing.", "properties": {"spec": {"type": "object", "description": "What it is."}}}}}]}});
        let kinds: Kinds = crate::custom::kinds(&definition).expect("valid").into_iter().collect();
        let document = document(&kinds, "g.example.com", "v1", "1.36").expect("served");
        let thing = &document["components"]["schemas"]["com.example.g.v1.Thing"];
        assert_eq!(thing["properties"]["spec"]["description"], "What it is.");
        assert_eq!(
            thing["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert!(document["paths"].get("/apis/g.example.com/v1/things/{name}").is_some());
    }
}
