//! Files of one volume that would stand in each other's way.
//!
//! Volumes with the paths they lay out -> one warning per pair where a path is the other, or a
//! directory on the way to it. Counterpart: `warningsForOverlappingVirtualPaths`.

use crate::kinds::at::At;

/// A path, and what puts a file there; empty where the volume has one source anyway.
struct Laid {
    path: String,
    by: String,
}

pub fn warn_overlapping_paths(volumes: &At, warnings: &mut Vec<String>) {
    for volume in volumes.items() {
        let name = volume.text_of("name");
        let mut warn = |what: &str, paths: Vec<Laid>| {
            for (path, other) in overlaps(&paths) {
                let pair = format!("{} with {}", path.shown(), other.shown());
                warnings.push(format!("volume {name:?} ({what}): overlapping paths: {pair}"));
            }
        };
        for (source, kind, naming) in [
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
            ("downwardAPI", "DownwardAPI", ""),
        ] {
            let at = volume.child(source);
            let what = match naming {
                "" => kind.to_owned(),
                field => format!("{kind} {:?}", at.text_of(field)),
            };
            warn(&what, items(&at, ""));
        }
        let projected = volume.child("projected");
        let sources = projected.child("sources");
        warn("Projected", sources.items().flat_map(|source| projected_paths(&source)).collect());
        let empty = sources.items().filter(|source| source.is_empty());
        warnings
            .extend(empty.map(|_| format!("volume {name:?} (Projected) has no sources provided")));
    }
}

fn items(source: &At, by: &str) -> Vec<Laid> {
    let paths = source.child("items");
    let path = |item: At| item.text_of("path").trim_end_matches('/').to_owned();
    paths.items().map(|item| Laid { path: path(item), by: by.to_owned() }).collect()
}

fn projected_paths(source: &At) -> Vec<Laid> {
    let named =
        |kind: &str, field: &str| format!("{kind} {:?}", source.child(field).text_of("name"));
    let one = |at: &At, field: &str, by: &str| Laid {
        path: at.text_of(field).trim_end_matches('/').to_owned(),
        by: by.to_owned(),
    };
    if source.child("configMap").has("items") {
        return items(&source.child("configMap"), &named("ConfigMap", "configMap"));
    }
    if source.child("secret").has("items") {
        return items(&source.child("secret"), &named("Secret", "secret"));
    }
    if source.child("downwardAPI").has("items") {
        return items(&source.child("downwardAPI"), "DownwardAPI");
    }
    if source.has("serviceAccountToken") {
        return vec![one(&source.child("serviceAccountToken"), "path", "ServiceAccountToken")];
    }
    let bundle = source.child("clusterTrustBundle");
    if bundle.is_set() {
        let field = if bundle.has("name") { "name" } else { "signerName" };
        let by = format!("ClusterTrustBundle {:?}", bundle.text_of(field));
        return vec![one(&bundle, "path", &by)];
    }
    let certificate = source.child("podCertificate");
    [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter(|(field, _)| !certificate.child(field).is_empty())
    .map(|(field, by)| one(&certificate, field, by))
    .collect()
}

/// Each path with every earlier one that it meets.
fn overlaps(paths: &[Laid]) -> Vec<(&Laid, &Laid)> {
    let meets = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate().filter(|(_, laid)| !laid.path.is_empty()) {
        let earlier = paths[..index].iter().filter(|laid| !laid.path.is_empty());
        let met = earlier
            .filter(|other| meets(&other.path, &path.path) || meets(&path.path, &other.path));
        found.extend(met.map(|other| (path, other)));
    }
    found
}

impl Laid {
    fn shown(&self) -> String {
        match self.by.as_str() {
            "" => format!("{:?}", self.path),
            by => format!("{:?} ({by})", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_on_the_way_to_another_is_warned_of() {
        let item = |path: &str| json!({ "key": "k", "path": path });
        let volumes = json!([{
            "name": "v",
            "configMap": {"name": "c", "items": [item("a/b"), item("a"), item("ab")]},
        }]);
        let mut warnings = Vec::new();
        warn_overlapping_paths(&At::root(&volumes), &mut warnings);
        let expected = r#"volume "v" (ConfigMap "c"): overlapping paths: "a" with "a/b""#;
        assert_eq!(warnings, [expected]);
    }
}
