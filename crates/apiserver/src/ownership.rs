//! Who owns which field: noted on every write, settled by server-side apply.
//!
//! The engine is [`skiff_api::apply`]; here the request says who the manager is. Counterpart:
//! `handlers/fieldmanager`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::apply::{self, Manager};
use skiff_api::meta::meta;
use skiff_api::{KindDef, Reason, Status};

use crate::call::{Call, FieldValidation};
use crate::objects;
use crate::verbs::write::{Proposed, Write};

/// Notes the fields that a create or update sets as the manager's, by the names they have at the version the client speaks.
pub fn track(write: &Write<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let manager = manager(write);
    if Arc::ptr_eq(&write.kind, &write.stored) {
        apply::track(&write.stored, old, object, &manager);
        // Owners that cannot be told are not guessed.
        if old
            .is_some_and(|old| across_versions(&foreign_versions(write, old), old, object).is_err())
        {
            crate::verbs::write::remove(object, "managedFields");
        }
        return Ok(());
    }
    let spoken = |object: &Value| objects::value_at_version(&write.kind, object.clone());
    let (mut seen, before) = (spoken(object)?, old.map(spoken).transpose()?);
    apply::track(&write.kind, before.as_ref(), &mut seen, &manager);
    take_owners(object, &mut seen);
    Ok(())
}

/// Gives an object the owners that were found by looking at it in another form.
pub fn take_owners(object: &mut Value, seen: &mut Value) {
    match seen.pointer_mut("/metadata/managedFields") {
        Some(managed) => crate::verbs::write::set(object, "managedFields", managed.take()),
        None => crate::verbs::write::remove(object, "managedFields"),
    }
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

/// Notes what the server itself writes.
pub fn track_own(kind: &KindDef, old: Option<&Value>, object: &mut Value, subresource: &str) {
    let manager = Manager {
        name: "kube-apiserver".to_owned(),
        api_version: kind.api_version(),
        subresource: subresource.to_owned(),
        time: now(),
    };
    apply::track(kind, old, object, &manager);
}

/// A TokenRequest shows its fields' owner too.
pub fn track_token(call: &Call, object: &mut Value) -> Result<(), Status> {
    let options = call.write_options("CreateOptions")?;
    let kinds = call.server.kinds();
    let Some(account) = kinds.get("", "v1", "serviceaccounts") else { return Ok(()) };
    let Some(schema) = skiff_api::schema::struct_ref("authentication.v1.TokenRequest") else {
        return Ok(());
    };
    let kind = KindDef {
        group: "authentication.k8s.io".to_owned(),
        kind: "TokenRequest".to_owned(),
        schema,
        ..KindDef::clone(account)
    };
    let manager = Manager {
        name: options.manager,
        api_version: kind.api_version(),
        subresource: "token".to_owned(),
        time: now(),
    };
    apply::track(&kind, None, object, &manager);
    Ok(())
}

/// The other versions at which fields of an object are owned.
fn foreign_versions(write: &Write<'_>, live: &Value) -> Vec<Arc<KindDef>> {
    let kind = &write.kind;
    let converts_itself = kind.versioning.as_ref().is_some_and(|it| it.webhook.is_some());
    if !kind.custom || converts_itself {
        return Vec::new();
    }
    let owners = live["metadata"]["managedFields"].as_array();
    let versions = owners.into_iter().flatten().filter_map(|owner| owner["apiVersion"].as_str());
    let own = kind.api_version();
    let others: BTreeSet<&str> = versions.filter(|version| *version != own).collect();
    let kinds = write.call.server.kinds();
    let defined = |version: &str| {
        let name = version.rsplit('/').next().unwrap_or("");
        kinds.defined(&kind.group, name, &kind.resource).cloned()
    };
    others.into_iter().filter_map(defined).collect()
}

/// Owners at another version see both objects at theirs, where nothing may stand that its schema does not declare.
fn across_versions(versions: &[Arc<KindDef>], old: &Value, new: &Value) -> Result<(), String> {
    for kind in versions {
        for (which, object) in [("old", old), ("new", new)] {
            if let Some(why) = apply::undeclared(object, kind) {
                return Err(format!("failed to convert {which} object: {why}"));
            }
        }
    }
    Ok(())
}

/// What an apply wants, decoded once for however many attempts it takes.
pub struct Intent {
    config: Value,
    /// Keys that the text repeats.
    repeated: Vec<String>,
}

impl Intent {
    pub fn read(write: &Write<'_>) -> Result<Intent, Status> {
        let (config, repeated) = apply::decode_config(&write.call.body, &write.kind)?;
        let (given, name) = (meta(&config).name(), write.call.info.name.as_str());
        if !given.is_empty() && given != name {
            let message = format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            );
            return Err(Status::bad_request(message));
        }
        write.check_namespace(&mut config.clone())?;
        Ok(Intent { config, repeated })
    }

    pub fn propose(&self, write: &Write<'_>, current: Option<Value>) -> Result<Proposed, Status> {
        if current.is_none() {
            self.check_new(write)?;
        }
        let manager = manager(write);
        let applied =
            |force| apply::apply(&write.kind, current.as_ref(), &self.config, &manager, force);
        let foreign =
            current.as_ref().map(|live| foreign_versions(write, live)).unwrap_or_default();
        if let Some(live) = current.as_ref().filter(|_| !foreign.is_empty()) {
            across_versions(&foreign, live, &applied(true)?.object)
                .map_err(|why| Status::new(500, Reason::Unknown, why))?;
        }
        let decoded = applied(write.options.force)?;
        write.empties.note(&decoded);
        let mut object = decoded.object;
        self.check_repeated(write)?;
        let named = meta(&self.config).resource_version();
        let live = current.as_ref().map(|live| meta(live).resource_version());
        // The revision of an object that is not there yet means nothing.
        let revision = match live {
            None => "",
            Some(live) if named.is_empty() => live,
            Some(_) => named,
        };
        crate::verbs::write::set(&mut object, "resourceVersion", revision.into());
        write.check_namespace(&mut object)?;
        Ok(Proposed { object, owned: true, fixed: !named.is_empty() })
    }

    /// Told last, as upstream reads the text a second time once it has been applied.
    fn check_repeated(&self, write: &Write<'_>) -> Result<(), Status> {
        match write.options.validation {
            FieldValidation::Strict if !self.repeated.is_empty() => {
                let lines = self.repeated.join("\n  ");
                Err(Status::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {lines}"
                )))
            }
            FieldValidation::Warn => {
                self.repeated.iter().for_each(|finding| write.call.warn(finding.as_str()));
                Ok(())
            }
            FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
        }
    }

    /// What an apply that would create must say, and must not.
    fn check_new(&self, write: &Write<'_>) -> Result<(), Status> {
        let (resource, name) = (write.kind.group_resource(), &write.call.info.name);
        let by_status =
            write.subresource == "status" && write.kind.strategy.allow_create_on_update();
        if !write.subresource.is_empty() && !by_status {
            return Err(Status::not_found(&resource, name));
        }
        if meta(&self.config).name().is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        match meta(&self.config).uid() {
            "" => Ok(()),
            uid => {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                Err(Status::conflict(&resource, name, &why))
            }
        }
    }
}

/// Who writes, and with what.
pub fn manager(write: &Write<'_>) -> Manager {
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
