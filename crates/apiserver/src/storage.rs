//! Which store engine keeps the objects.
//!
//! Counterpart: `--etcd-servers`. Only the embedded engine exists today.

use std::path::Path;

use skiff_store::embedded::{self, Config};
use skiff_store::{OpenError, Store};

/// Opens the embedded store beneath `directory`. Blocks while it loads.
pub fn open(directory: &Path) -> Result<Store, OpenError> {
    let (store, report) = embedded::open(directory, Config::default())?;
    tracing::debug!(?report, "store opened");
    Ok(store)
}
