//! What no compiler checks: that every file says what it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Fails with a list of everything untidy.
pub fn check() -> Result<()> {
    let mut faults = Vec::new();
    for file in sources(Path::new("."))? {
        let text = fs::read_to_string(&file)?;
        if !text.starts_with("//!") {
            faults.push(format!("{}: open with //! and say what the file is", file.display()));
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}

/// Every Rust file of the repository.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for file in sources(&root).expect("the repository is readable") {
            let text = fs::read_to_string(&file).expect("sources are text");
            assert!(text.starts_with("//!"), "{} does not say what it is", file.display());
        }
    }
}
