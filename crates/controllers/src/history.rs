//! The pod templates that a StatefulSet or DaemonSet has had, kept as ControllerRevisions.
//!
//! An owner's template and its revisions in -> the revision of that template: found, brought back to the front, or made.
//! Counterpart: `pkg/controller/history`. Differs from upstream: revisions are compared as templates, not as bytes,
//! so one that another server wrote is recognized.
//! Invariant: of one owner's revisions the one with the highest number is that of its present template.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

use crate::claims::{self, is_controlled_by, reference_to};
use crate::pod_template;
use crate::runtime::{Ctx, Key, Object, Result};

/// The label of pods that says which revision they are of.
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// Takes over orphaned revisions and gives the owner's, the newest last.
pub async fn revisions<O: Object>(
    ctx: &Ctx,
    owner: &O,
    selected: impl Fn(&ControllerRevision) -> bool,
) -> Result<Vec<Arc<ControllerRevision>>> {
    let candidates = claims::candidates::<O, ControllerRevision>(ctx, owner);
    let claims = claims::claims(owner, &candidates, selected, |_| true);
    claims::settle(ctx, owner, claims).await?;
    let mut revisions = claims::dependents::<O, ControllerRevision>(ctx, owner);
    revisions.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(revisions)
}

fn order(revision: &ControllerRevision) -> (i64, Option<jiff::Timestamp>, Option<&str>) {
    let meta = &revision.metadata;
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    (revision.revision, created, meta.name.as_deref())
}

pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.get("spec")?.get("template")?;
    serde_json::from_value(template.clone()).ok()
}

/// A strategic patch that brings the template back, as `kubectl rollout undo` applies it.
fn data_of(template: &PodTemplateSpec) -> RawExtension {
    let mut template = serde_json::to_value(template).expect("a pod template always encodes");
    template["$patch"] = json!("replace");
    RawExtension(json!({"spec": {"template": template}}))
}

/// Where the revision of a template is among those there are.
#[derive(Debug, PartialEq)]
pub enum Place {
    Newest(Arc<ControllerRevision>),
    /// An earlier template is back: its revision gets the next number.
    Earlier(Arc<ControllerRevision>, i64),
    /// It has to be made, with the next number.
    Nowhere(i64),
}

/// `revisions` come with the newest last.
pub fn place(revisions: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Place {
    let next = revisions.last().map_or(1, |newest| newest.revision + 1);
    // From the newest on: in steady state one comparison is all.
    let found = revisions.iter().rposition(|old| template_of(old).as_ref() == Some(template));
    match found {
        Some(at) if at + 1 == revisions.len() => Place::Newest(revisions[at].clone()),
        Some(at) => Place::Earlier(revisions[at].clone(), next),
        None => Place::Nowhere(next),
    }
}

/// The revision of the owner's template. `hash_label` is the label under which the kind keeps the hash on revisions;
/// `collisions` is counted up where another template has taken the name.
pub async fn current<O: Object>(
    ctx: &Ctx,
    owner: &O,
    template: &PodTemplateSpec,
    revisions: &[Arc<ControllerRevision>],
    hash_label: &str,
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>> {
    match place(revisions, template) {
        Place::Newest(revision) => Ok(revision),
        Place::Earlier(revision, number) => {
            ctx.patch(&Key::of(revision.as_ref()), &json!({"revision": number})).await
        }
        Place::Nowhere(number) => {
            create(ctx, owner, template, number, hash_label, collisions).await
        }
    }
}

async fn create<O: Object>(
    ctx: &Ctx,
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    hash_label: &str,
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>> {
    loop {
        let revision = blueprint(owner, template, number, hash_label, *collisions);
        let taken = match ctx.create(&revision).await {
            Err(error) if error.status_code() == Some(409) => error,
            made => return made,
        };
        let Some(present) = ctx.get_live::<ControllerRevision>(&Key::of(&revision)).await? else {
            return Err(taken);
        };
        let ours = is_controlled_by(owner, &present.metadata);
        if ours && template_of(&present).as_ref() == Some(template) {
            return Ok(present);
        }
        *collisions += 1;
    }
}

fn blueprint<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    hash_label: &str,
    collisions: i32,
) -> ControllerRevision {
    let hash = pod_template::hash(template, Some(collisions));
    let meta = owner.meta();
    let mut labels =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![reference_to(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(data_of(template)),
        revision: number,
    }
}

/// The oldest revisions beyond `limit` that nothing lives by. `revisions` come with the newest last.
pub fn superfluous(
    revisions: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: usize,
) -> Vec<Arc<ControllerRevision>> {
    let history: Vec<_> = revisions.iter().filter(|revision| !is_live(revision)).collect();
    let excess = history.len().saturating_sub(limit);
    history.into_iter().take(excess).cloned().collect()
}

pub async fn delete_all(ctx: &Ctx, revisions: Vec<Arc<ControllerRevision>>) -> Result<()> {
    for revision in revisions {
        match ctx.delete(revision.as_ref()).await {
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn template(image: &str) -> PodTemplateSpec {
        yaml(&format!(
            "{{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}"
        ))
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let owner: StatefulSet = yaml("{metadata: {name: web, namespace: ns, uid: u}}");
        Arc::new(blueprint(&owner, &template(image), number, "hash", 0))
    }

    #[test]
    fn a_template_is_found_brought_back_or_new() {
        let kept = [revision("a", 1), revision("b", 2)];
        assert_eq!(place(&kept, &template("b")), Place::Newest(kept[1].clone()));
        assert_eq!(place(&kept, &template("a")), Place::Earlier(kept[0].clone(), 3));
        assert_eq!(place(&kept, &template("c")), Place::Nowhere(3));
        assert_eq!(place(&[], &template("c")), Place::Nowhere(1));
    }

    #[test]
    fn a_revision_is_a_patch_that_replaces_the_template() {
        let revision = revision("a", 1);
        assert_eq!(revision.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_of(&revision), Some(template("a")));
        assert_eq!(revision.metadata.labels.as_ref().unwrap()["app"], "web");
    }

    #[test]
    fn a_collision_gives_another_name() {
        let owner: StatefulSet = yaml("{metadata: {name: web, uid: u}}");
        let name =
            |collisions| blueprint(&owner, &template("a"), 1, "hash", collisions).metadata.name;
        assert_ne!(name(0), name(1));
    }

    #[test]
    fn history_keeps_what_is_live_and_the_newest_of_the_rest() {
        let kept = [revision("a", 1), revision("b", 2), revision("c", 3), revision("d", 4)];
        let live = |revision: &ControllerRevision| matches!(revision.revision, 1 | 4);
        let numbers = |limit| -> Vec<i64> {
            superfluous(&kept, live, limit).iter().map(|revision| revision.revision).collect()
        };
        assert_eq!(numbers(0), [2, 3]);
        assert_eq!(numbers(1), [2]);
        assert!(numbers(5).is_empty());
    }
}
