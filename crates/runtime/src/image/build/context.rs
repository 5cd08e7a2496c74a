//! The files a build may copy, on their way to the node.
//!
//! Consumes a directory, leaves out what its `.dockerignore` says, emits a tar; and back. Counterpart: BuildKit's file
//! synchronisation. Owners do not travel: what a build copies belongs to root unless it says otherwise.
//! Invariant: what is unpacked stays below its directory.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use super::ignore::Ignore;

/// Packs `dir`; `dockerfile` may have an ignore file of its own beside it.
pub fn pack_context(dir: &Path, dockerfile: Option<&Path>, output: impl Write) -> io::Result<()> {
    let ignore = read_ignore(dir, dockerfile)?;
    let mut tar = tar::Builder::new(output);
    tar.follow_symlinks(false);
    add_below(dir, Path::new(""), &ignore, &mut tar)?;
    tar.into_inner()?.flush()
}

/// Unpacks what [`pack_context`] made.
pub fn unpack_context(input: impl Read, dir: &Path) -> io::Result<()> {
    let mut tar = tar::Archive::new(input);
    tar.set_preserve_permissions(true);
    tar.set_preserve_mtime(true);
    tar.unpack(dir)
}

fn read_ignore(dir: &Path, dockerfile: Option<&Path>) -> io::Result<Ignore> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        name
    });
    let file = own.map(Into::into).filter(|path: &std::path::PathBuf| path.exists());
    let file = file.unwrap_or_else(|| dir.join(".dockerignore"));
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let wrong = |reason| io::Error::other(format!("{}: {reason}", file.display()));
    Ignore::parse(&text).map_err(wrong)
}

fn add_below(
    root: &Path,
    below: &Path,
    ignore: &Ignore,
    tar: &mut tar::Builder<impl Write>,
) -> io::Result<()> {
    let entries = fs::read_dir(root.join(below))?;
    let mut names = entries.map(|one| Ok(one?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let name = below.join(name);
        let path = root.join(&name);
        let kind = fs::symlink_metadata(&path)?.file_type();
        let left_out = ignore.leaves_out(&name.to_string_lossy());
        // A directory that is left out is still needed for what comes back in it.
        let enters = kind.is_dir() && !(left_out && ignore.is_final());
        if !left_out && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            tar.append_path_with_name(&path, &name)?;
        }
        if enters {
            add_below(root, &name, ignore, tar)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_stays_behind() {
        let dir = std::env::temp_dir().join(format!("skiff-context-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(from.join("out/keep")).unwrap();
        fs::create_dir_all(&to).unwrap();
        for name in ["app", "secret", "out/drop", "out/keep/file"] {
            fs::write(from.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("app", from.join("link")).unwrap();
        fs::write(from.join(".dockerignore"), "secret\nout\n!out/keep\n").unwrap();
        let mut packed = Vec::new();
        pack_context(&from, None, &mut packed).unwrap();
        unpack_context(packed.as_slice(), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("out/keep/file")).unwrap(), "out/keep/file");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("app"));
        assert!(!to.join("secret").exists() && !to.join("out/drop").exists());
        // One beside the Dockerfile goes before.
        fs::write(from.join("my.dockerignore"), "app").unwrap();
        let mut packed = Vec::new();
        pack_context(&from, Some(&from.join("my")), &mut packed).unwrap();
        fs::remove_dir_all(&to).unwrap();
        fs::create_dir_all(&to).unwrap();
        unpack_context(packed.as_slice(), &to).unwrap();
        assert!(to.join("secret").exists() && !to.join("app").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
