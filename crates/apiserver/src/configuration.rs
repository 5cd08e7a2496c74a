//! Configuration files: YAML or JSON of a known kind, read once at start.
//!
//! Path -> a value whose kind and version were checked. Counterpart: the `--*-config` files of kube-apiserver.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", .path.display())]
    Syntax { path: PathBuf, reason: String },
}

pub fn read_yaml(path: &Path) -> Result<Value, FileError> {
    let text =
        std::fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    serde_saphyr::from_slice(&text).map_err(|error| syntax(path, error.to_string()))
}

/// A file of one of the versions of a kind, without fields that the kind does not have.
pub fn read<T: DeserializeOwned>(
    path: &Path,
    kind: &str,
    versions: &[&str],
) -> Result<T, FileError> {
    let mut file = read_yaml(path)?;
    let version = file["apiVersion"].as_str().unwrap_or("").to_owned();
    if file["kind"] != kind || !versions.contains(&version.as_str()) {
        let (found, wanted) = (&file["kind"], versions.join(", "));
        return Err(syntax(path, format!("found {version:?} {found}, wanted {kind} of {wanted}")));
    }
    if let Some(fields) = file.as_object_mut() {
        fields.retain(|field, _| field != "kind" && field != "apiVersion");
    }
    serde_json::from_value(file).map_err(|error| syntax(path, error.to_string()))
}

pub fn syntax(path: &Path, reason: String) -> FileError {
    FileError::Syntax { path: path.to_owned(), reason }
}
