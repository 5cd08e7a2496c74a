//! The file browser: the container's file system below `/fs/`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use hyper::StatusCode;

use crate::http::Answer;
use crate::page::{self, escape};

/// `shown` is the path as asked for, `path` the same without a prefix such as `/a`.
pub fn browse(shown: &str, path: &str) -> Answer {
    let Some(place) = place(path) else {
        return Answer::error(StatusCode::BAD_REQUEST, "the path must not leave the file system");
    };
    match fs::metadata(&place) {
        Ok(meta) if meta.is_dir() => listing(shown, &place),
        Ok(_) => match fs::read(&place) {
            Ok(content) => Answer::text(content),
            Err(error) => unreadable(&error),
        },
        Err(error) => unreadable(&error),
    }
}

fn place(path: &str) -> Option<PathBuf> {
    let inside = path.strip_prefix("/fs").unwrap_or(path).trim_start_matches('/');
    let plain = Path::new(inside).components().all(|step| matches!(step, Component::Normal(_)));
    plain.then(|| Path::new("/").join(inside))
}

fn listing(shown: &str, place: &Path) -> Answer {
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) => return unreadable(&error),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let base = shown.trim_end_matches('/');
    let rows: String = names
        .iter()
        .map(|name| format!(r#"<li><a href="{0}/{1}">{1}</a>"#, escape(base), escape(name)))
        .collect();
    page::plain(&format!("Files in {}", place.display()), &format!("<ul>{rows}</ul>"))
}

fn unreadable(error: &std::io::Error) -> Answer {
    let status = match error.kind() {
        std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        std::io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Answer::error(status, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_climb_out() {
        assert_eq!(place("/fs/etc/passwd"), Some("/etc/passwd".into()));
        assert_eq!(place("/fs/"), Some("/".into()));
        assert_eq!(place("/fs/../x"), None);
    }
}
