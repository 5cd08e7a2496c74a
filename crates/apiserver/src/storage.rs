//! Which store engine keeps the objects, and what is done to what earlier builds kept in it.
//!
//! Counterpart: `--etcd-servers`. Only the embedded engine exists today.
//! Invariant: no object is lost because its place has changed.

use std::path::Path;

use skiff_api::codec::decode_stored;
use skiff_api::{KindDef, Status};
use skiff_store::embedded::{self, Config};
use skiff_store::{Expect, Op, OpenError, RangeRequest, Store, Txn};

use crate::objects;
use crate::server::Server;

/// Where earlier builds kept kinds of the core group that have another place now.
const OLD_PLACES: &[(&str, &str)] =
    &[("replicationcontrollers", "/registry/replicationcontrollers/")];

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

/// Takes what stands at an old place to where it is looked for now.
pub async fn move_old_places(server: &Server) -> Result<(), Status> {
    let kinds = server.kinds();
    for (resource, place) in OLD_PLACES {
        let kind = kinds.get("", "v1", resource).expect("a built-in kind");
        let found = server.store.range(RangeRequest::prefix(*place)).await;
        for entry in found.map_err(objects::store_status)?.entries {
            let ops = moved(kind, place, &entry)?;
            let moved = server.store.commit(Txn { ops: ops.into(), ..Txn::default() }).await;
            moved.map_err(objects::store_status)?;
        }
    }
    Ok(())
}

fn moved(kind: &KindDef, place: &str, entry: &skiff_store::Entry) -> Result<[Op; 2], Status> {
    let mut object = decode_stored(&entry.value)?;
    let name = entry.key.strip_prefix(place).unwrap_or_default();
    let key = format!("{}{name}", kind.key_prefix).into();
    let value = objects::encode(kind, &mut object);
    let old = Op::Delete { key: entry.key.clone(), expect: Expect::Mod(entry.mod_revision) };
    Ok([Op::Put { key, value, expect: Expect::Absent }, old])
}
