//! The sandbox image for container runtimes that hold a pod's namespaces by a process: busybox, asleep.

use std::path::Path;

use crate::archive::{Image, Layer, write};
use crate::{Result, debian};

const NAME: &str = "docker.io/library/pause:test";

pub fn pack(out: &Path) -> Result<()> {
    let root = debian::scratch("pause")?;
    debian::busybox(&root)?;
    let layer = Layer::of(&root, &[])?;
    let image = Image {
        names: &[NAME],
        env: &[],
        cmd: &["/bin/sleep", "infinity"],
        user: "65534:65534",
        working_dir: "/",
        ports: &[],
    };
    let archive = out.join("pause.tar");
    write(&layer, &image, &archive)?;
    println!("{}  {NAME}", archive.display());
    Ok(())
}
