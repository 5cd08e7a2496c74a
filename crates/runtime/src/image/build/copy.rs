//! COPY and ADD: finds the sources and puts them where they belong.
//!
//! Consumes a tree and patterns, emits entries of a layer. Whoever calls it has made the tree its root: so links do not
//! lead out of it.
//! Counterpart: BuildKit's `fsutil/copy`.

use std::{
    fs, io,
    io::{BufReader, Read, Seek},
    path::{Component, Path, PathBuf},
};

use super::layer_writer::{LayerWriter, Overrides};
use crate::image::archive::decompress;

/// What is copied where; all of it decided.
pub(crate) struct Placement<'a> {
    /// Relative to the image's root, links resolved.
    pub target: PathBuf,
    /// The target is a directory, or has to become one.
    pub into_directory: bool,
    /// It is there already, and keeps its mode and owner.
    pub exists: bool,
    pub overrides: Overrides,
    /// Archives are unpacked.
    pub unpack: bool,
    pub writer: &'a mut LayerWriter,
}

// === impl Placement ===

impl Placement<'_> {
    /// Copies everything that `pattern` names.
    pub fn copy(&mut self, pattern: &str) -> io::Result<()> {
        let sources = find(Path::new("/"), pattern)?;
        if sources.is_empty() {
            let reason =
                format!("{:?}: not found", Path::new("/").join(pattern.trim_start_matches('/')));
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        sources.iter().try_for_each(|source| self.one(source))
    }

    /// Copies a file that is written in the Dockerfile.
    pub fn inline(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let place = self.place_of(Path::new(name));
        self.writer.add_file(&place, content, self.overrides)
    }

    fn one(&mut self, source: &Found) -> io::Result<()> {
        let real = source.real.as_path();
        if real.is_dir() {
            if !self.exists && !self.target.as_os_str().is_empty() {
                self.writer.add_directory(&self.target, self.overrides.owner)?;
                self.exists = true;
            }
            let target = self.target.clone();
            return self.contents(real, &target);
        }
        if self.unpack
            && let Some(archive) = archive(real)?
        {
            return self.writer.add_archive(&self.target, archive, self.overrides);
        }
        let place = self.place_of(&source.named);
        self.writer.add(&place, real, self.overrides)
    }

    fn contents(&mut self, dir: &Path, target: &Path) -> io::Result<()> {
        for path in sorted(dir)? {
            let place = target.join(path.file_name().unwrap_or_default());
            self.writer.add(&place, &path, self.overrides)?;
            if fs::symlink_metadata(&path)?.is_dir() {
                self.contents(&path, &place)?;
            }
        }
        Ok(())
    }

    fn place_of(&self, source: &Path) -> PathBuf {
        match self.into_directory {
            true => self.target.join(source.file_name().unwrap_or_default()),
            false => self.target.clone(),
        }
    }
}

/// A source, and what it is called.
struct Found {
    named: PathBuf,
    /// Links followed.
    real: PathBuf,
}

/// The paths a pattern names; each component may hold wildcards. A link that is named is followed.
fn find(root: &Path, pattern: &str) -> io::Result<Vec<Found>> {
    let mut found = vec![root.to_owned()];
    for component in Path::new(pattern).components() {
        let name = match component {
            Component::Normal(name) => name.to_string_lossy().into_owned(),
            Component::ParentDir => {
                return Err(io::Error::other("forbidden path outside the build context"));
            }
            _ => continue,
        };
        let mut next = Vec::new();
        for dir in found {
            if !name.contains(['*', '?', '[']) {
                next.push(dir.join(&name));
            } else if dir.is_dir() {
                let fits = |path: &PathBuf| {
                    path.file_name().is_some_and(|n| glob_matches(&name, &n.to_string_lossy()))
                };
                next.extend(sorted(&dir)?.into_iter().filter(fits));
            }
        }
        found = next.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    }
    found.into_iter().map(|path| Ok(Found { real: path.canonicalize()?, named: path })).collect()
}

fn sorted(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The plain tar of a file that is one, however it is packed.
fn archive(path: &Path) -> io::Result<Option<impl Read>> {
    const MAGIC_AT: usize = 257;
    let mut file = fs::File::open(path)?;
    let mut head = Vec::new();
    // What cannot be unpacked is no archive.
    let read = decompress(BufReader::new(&file)).and_then(|r| r.take(512).read_to_end(&mut head));
    file.rewind()?;
    let is_tar = read.is_ok() && head.get(MAGIC_AT..MAGIC_AT + 5) == Some(b"ustar");
    is_tar.then(|| decompress(BufReader::new(file))).transpose()
}

/// `*` and `?` within one name.
fn glob_matches(glob: &str, name: &str) -> bool {
    let pattern = glob.chars().map(|c| match c {
        '*' => ".*".to_owned(),
        '?' => ".".to_owned(),
        '[' | ']' | '-' | '^' => c.to_string(),
        c => regex::escape(&c.to_string()),
    });
    let pattern = format!("^{}$", pattern.collect::<String>());
    regex::Regex::new(&pattern).is_ok_and(|regex| regex.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_is_inside_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("skiff-copy-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        for name in ["a.txt", "b.txt", "c.md", "sub/d.txt"] {
            fs::write(dir.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a.txt", dir.join("in")).unwrap();
        let names = |pattern: &str| -> Vec<String> {
            let found = find(&dir, pattern).unwrap();
            let short =
                |found: &Found| found.named.strip_prefix(&dir).unwrap().display().to_string();
            found.iter().map(short).collect()
        };
        assert_eq!(names("*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names("/sub/[a-d].txt"), ["sub/d.txt"]);
        assert_eq!(names("?.md"), ["c.md"]);
        assert_eq!(names("in"), ["in"]);
        assert_eq!(find(&dir, "in").unwrap()[0].real.file_name().unwrap(), "a.txt");
        assert_eq!(names("."), [""]);
        assert_eq!(names("none"), [""; 0]);
        assert!(find(&dir, "../x").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
