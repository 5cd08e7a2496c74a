//! Who owns which field: noted on every write, settled by server-side apply.
//!
//! The engine is [`skiff_api::apply`]; here the request says who the manager is. Counterpart:
//! `handlers/fieldmanager`.

use serde_json::Value;
use skiff_api::apply::{self, Manager};
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status};

use crate::call::Call;
use crate::verbs::write::{Proposed, Write};

/// Notes the fields that a create or update sets as the manager's.
pub fn track(write: &Write<'_>, object: &mut Value, old: Option<&Value>) {
    apply::track(&write.stored, old, object, &manager(write));
}

/// Reviews show their fields' owner although they are never stored.
pub fn track_review(call: &Call, kind: &KindDef, object: &mut Value) -> Result<(), Status> {
    let options = call.write_options("CreateOptions")?;
    let manager = Manager {
        name: options.manager,
        api_version: kind.api_version(),
        subresource: String::new(),
        time: now(),
    };
    apply::track(kind, None, object, &manager);
    Ok(())
}

/// What an apply wants, decoded once for however many attempts it takes.
pub struct Intent {
    config: Value,
}

impl Intent {
    pub fn read(write: &Write<'_>) -> Result<Intent, Status> {
        let mut config = apply::decode_config(&write.call.body, &write.kind)?;
        write.check_namespace(&mut config)?;
        let (given, name) = (meta(&config).name().to_owned(), write.call.info.name.as_str());
        match given.as_str() {
            "" => crate::verbs::write::set(&mut config, "name", name.into()),
            given if given != name => {
                let message = format!(
                    "the name of the object ({given}) does not match the name on the URL ({name})"
                );
                return Err(Status::bad_request(message));
            }
            _ => {}
        }
        Ok(Intent { config })
    }

    pub fn propose(&self, write: &Write<'_>, current: Option<Value>) -> Result<Proposed, Status> {
        if current.is_none() && !write.subresource.is_empty() {
            return Err(Status::not_found(&write.kind.group_resource(), &write.call.info.name));
        }
        let mut object = apply::apply(
            &write.kind,
            current.as_ref(),
            &self.config,
            &manager(write),
            write.options.force,
        )?;
        let named = meta(&self.config).resource_version();
        let live = current.as_ref().map_or("", |live| meta(live).resource_version());
        let revision = if named.is_empty() { live } else { named };
        crate::verbs::write::set(&mut object, "resourceVersion", revision.into());
        Ok(Proposed { object, owned: true, fixed: !named.is_empty() })
    }
}

fn manager(write: &Write<'_>) -> Manager {
    Manager {
        name: write.options.manager.clone(),
        api_version: write.kind.api_version(),
        subresource: write.subresource.clone(),
        time: now(),
    }
}

fn now() -> String {
    skiff_api::time::format(skiff_api::time::now())
}
