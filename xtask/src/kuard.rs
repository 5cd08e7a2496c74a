//! The sample app's image: the binary, its libraries, and busybox to look around with.

use std::path::Path;

use crate::archive::{Image, Layer, write};
use crate::{Result, debian};

const COLOURS: [&str; 3] = ["blue", "green", "purple"];

/// Writes one archive per colour; they differ in nothing but what the app calls itself.
pub fn pack(binary: &Path, out: &Path) -> Result<()> {
    let root = debian::scratch("kuard")?;
    debian::busybox(&root)?;
    debian::install(binary, &root, "/kuard")?;
    debian::base(&root, &[("root", 0, "/root"), ("nobody", 65534, "/")])?;
    let layer = Layer::of(&root, &[])?;
    for colour in COLOURS {
        let name = format!("docker.io/library/kuard:{colour}");
        let version = format!("KUARD_VERSION={colour}");
        let image = Image {
            names: &[&name],
            env: &[&version],
            cmd: &["/kuard"],
            user: "nobody:nobody",
            working_dir: "/",
            ports: &["8080/tcp", "8443/tcp"],
        };
        let archive = out.join(format!("kuard-{colour}.tar"));
        write(&layer, &image, &archive)?;
        println!("{}  {name}", archive.display());
    }
    Ok(())
}
