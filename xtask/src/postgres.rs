//! PostgreSQL from the distribution's packages: a workload that nobody wrote for Skiff.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::archive::{Image, Layer, write};
use crate::{Result, debian};

/// Compiles queries, at the price of a hundred megabytes; the server runs without it.
const LEFT_OUT: &[&str] = &["libllvm", "debconf", "cdebconf", "perl", "ucf", "ssl-cert", "adduser"];
const OWNER: u32 = 999;

const ENTRY: &str = r#"#!/bin/sh
# Makes a cluster in $PGDATA if there is none, then becomes the server.
set -e
export PATH=/usr/lib/postgresql/15/bin:$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    initdb --auth-local=trust --auth-host=scram-sha-256 --username=postgres \
        --pwfile=/dev/fd/3 --locale=C.UTF-8 --encoding=UTF8 3<<PASSWORD >/dev/null
${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}
PASSWORD
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"#;

pub fn pack(out: &Path) -> Result<()> {
    let root = debian::scratch("postgres")?;
    let packages = debian::with_dependencies(
        &["postgresql-15", "postgresql-client-15", "busybox-static", "libc-bin"],
        LEFT_OUT,
    )?;
    debian::unpack(&packages, &root)?;
    debian::busybox(&root)?;
    for bulk in [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/perl",
        "usr/lib/x86_64-linux-gnu/perl-base",
    ] {
        debian::remove(&root.join(bulk))?;
    }
    debian::base(&root, &[("root", 0, "/root"), ("postgres", OWNER, "/var/lib/postgresql")])?;
    let entry = root.join("usr/local/bin/start");
    fs::create_dir_all(root.join("usr/local/bin"))?;
    fs::write(&entry, ENTRY)?;
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755))?;
    fs::create_dir_all(root.join("var/lib/postgresql/data"))?;
    let image = Image {
        names: &["docker.io/library/postgres:15"],
        env: &["PGDATA=/var/lib/postgresql/data/db", "LANG=C.UTF-8"],
        cmd: &["/usr/local/bin/start"],
        user: "postgres",
        working_dir: "/",
        ports: &["5432/tcp"],
    };
    let layer = Layer::of(&root, &[("var/lib/postgresql", u64::from(OWNER))])?;
    let archive = out.join("postgres.tar");
    write(&layer, &image, &archive)?;
    println!("{}  {}", archive.display(), image.names[0]);
    Ok(())
}
