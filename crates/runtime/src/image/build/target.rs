//! Where a copy goes, as the image so far has it.
//!
//! Consumes a path and an owner as they are written, emits the place with links resolved and numbers. Looks at `/`:
//! whoever calls it has made the image its root.

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) struct Target {
    /// Relative to the root.
    pub path: PathBuf,
    pub is_directory: bool,
    pub owner: Option<(u64, u64)>,
}

// === impl Target ===

impl Target {
    /// What is not there yet lies below what is.
    pub fn find(path: &str, owner: Option<&str>) -> io::Result<Self> {
        let mut known = PathBuf::from(path);
        let mut rest = Vec::new();
        while !known.exists() {
            rest.extend(known.file_name().map(ToOwned::to_owned));
            if !known.pop() {
                break;
            }
        }
        let mut real = known.canonicalize().unwrap_or_else(|_| PathBuf::from("/"));
        real.extend(rest.iter().rev());
        let is_directory = real.is_dir();
        Ok(Target {
            path: real.strip_prefix("/").unwrap_or(&real).to_owned(),
            is_directory,
            owner: owner.map(|text| owner_of(text, Path::new("/etc"))).transpose()?,
        })
    }
}

/// `user[:group]`, numbers or names of the image's own.
fn owner_of(text: &str, etc: &Path) -> io::Result<(u64, u64)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let find = |file: &str, name: &str| -> io::Result<Vec<u64>> {
        let content = std::fs::read_to_string(etc.join(file)).unwrap_or_default();
        let line = content.lines().find(|line| line.split(':').next() == Some(name));
        let ids =
            line.map(|line| line.split(':').skip(2).map_while(|id| id.parse().ok()).collect());
        ids.ok_or_else(|| io::Error::other(format!("--chown: {name:?} is not in /etc/{file}")))
    };
    let user = match user.parse() {
        Ok(id) => vec![id],
        Err(_) => find("passwd", user)?,
    };
    let uid = user.first().copied().unwrap_or(0);
    let gid = match group.map(|group| (group, group.parse())) {
        // Without a group, the user's own; for a number the same number.
        None => user.get(1).copied().unwrap_or(uid),
        Some((_, Ok(id))) => id,
        Some((name, Err(_))) => find("group", name)?.first().copied().unwrap_or(0),
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names_of_the_image() {
        let etc = std::env::temp_dir().join(format!("skiff-owner-{}", std::process::id()));
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("passwd"), "root:x:0:0::/:\napp:x:10:20::/:\n").unwrap();
        std::fs::write(etc.join("group"), "web:x:30:app\n").unwrap();
        for (text, expected) in [
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            ("app", (10, 20)),
            ("app:web", (10, 30)),
            ("app:7", (10, 7)),
        ] {
            assert_eq!(owner_of(text, &etc).unwrap(), expected, "{text}");
        }
        let unknown = owner_of("nobody", &etc).unwrap_err().to_string();
        assert_eq!(unknown, "--chown: \"nobody\" is not in /etc/passwd");
        std::fs::remove_dir_all(etc).unwrap();
    }
}
