//! Which store engine keeps the objects.
//!
//! Counterpart: `--etcd-servers`. Only the embedded engine exists today.

use std::path::Path;

use skiff_store::embedded::{self, Config};
use skiff_store::{OpenError, Store};

/// Opens the embedded store beneath `directory` and says what was found. Blocks while it loads.
pub fn open(directory: &Path) -> Result<Store, OpenError> {
    let (store, report) = embedded::open(directory, Config::default())?;
    match (report.lost_writes(), report.cut.is_some() || report.found_damage()) {
        (true, _) => tracing::error!(%report, "store opened, writes are lost"),
        (false, true) => tracing::warn!(%report, "store opened after a repair"),
        (false, false) => tracing::info!(%report, "store opened"),
    }
    Ok(store)
}
