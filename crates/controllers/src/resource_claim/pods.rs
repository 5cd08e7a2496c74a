//! What a pod's entries call for: a claim from the template, word of it in the pod's status, and a reservation.
//!
//! A pod and its claims in -> `need` per entry -> creates and one status patch. Claims of a pod that was put on its node
//! without the scheduler are reserved for it here. Differs from upstream: a claim that was made twice because the answer to
//! the first create was lost is deleted again.
//! Invariant: a second claim is made for an entry only when the first is gone, or not known to be there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde_json::json;
use skiff_api::scheduling::{PodClaim, StandsFor};

use super::{ENTRY, RESERVED_MAX, claims_of, is_allocated, is_done, pod_claims, reserved_for};
use crate::claims::is_controlled_by;
use crate::pod;
use crate::runtime::{Action, Ctx, Error, Key, Result};

/// A generated name has five characters more, and 63 at most.
const BASE_MAX: usize = 57;

#[derive(Debug, PartialEq)]
enum Need {
    Nothing,
    /// The claim is there, and the pod does not say so.
    Word(String),
    Claim,
}

pub async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(pod) = ctx.lister::<Pod>().get(&key) else { return Ok(Action::Done) };
    if pod::is_terminating(&pod) || is_done(&pod) {
        return Ok(Action::Done);
    }
    let mut told = Vec::new();
    for claim in pod_claims(&pod) {
        match made(&ctx, &pod, &claim).await {
            Ok(name) => told
                .extend(name.map(|name| json!({"name": claim.entry, "resourceClaimName": name}))),
            Err(error) => {
                let message = format!("PodResourceClaim {}: {}", claim.entry, error.message());
                ctx.recorder.warning(pod.as_ref(), "FailedResourceClaimCreation", message);
                return Err(error);
            }
        }
    }
    let pod = match told.is_empty() {
        true => pod,
        false => {
            let status = json!({"resourceClaimStatuses": told});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            ctx.patch_status::<Pod>(&key, &patch).await?
        }
    };
    // Before it has a node, reserving is the scheduler's business.
    if pod::node_name(&pod).is_some() {
        for claim in claims_of(&pod) {
            reserve(&ctx, &pod, &claim).await?;
        }
    }
    Ok(Action::Done)
}

/// The name that the pod must be told, after making the claim where there is none.
async fn made(ctx: &Ctx, pod: &Pod, claim: &PodClaim) -> Result<Option<String>> {
    let store = ctx.lister::<ResourceClaim>();
    let key = Key::of(pod);
    let named = claim.claim().and_then(|name| store.get(&Key::new(&*key.namespace, name)));
    let own = store.owned_by(pod.metadata.uid.as_deref().unwrap_or_default());
    match need(pod, claim, named.as_deref(), &own) {
        Need::Nothing => {
            for spare in spare(pod, claim, &own) {
                match ctx.delete(spare.as_ref()).await {
                    Err(error) if error.is_not_found() => {}
                    outcome => outcome?,
                }
            }
            Ok(None)
        }
        Need::Word(name) => Ok(Some(name)),
        Need::Claim => {
            let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
            let Some(entry) = entries.into_iter().find(|entry| entry.name == claim.entry) else {
                return Ok(None);
            };
            let made = ctx.create(&from_template(ctx, pod, entry)?).await?;
            Ok(made.metadata.name.clone())
        }
    }
}

fn need(
    pod: &Pod,
    claim: &PodClaim,
    named: Option<&ResourceClaim>,
    own: &[Arc<ResourceClaim>],
) -> Need {
    match claim.stands_for {
        StandsFor::Shared(_) | StandsFor::Nothing => return Need::Nothing,
        StandsFor::Own(_) if named.is_some_and(|claim| is_controlled_by(pod, &claim.metadata)) => {
            return Need::Nothing;
        }
        StandsFor::Own(_) | StandsFor::Awaited => {}
    }
    // It may have been made, and the word of it lost.
    let name = for_entry(pod, claim, own).next().and_then(|claim| claim.metadata.name.clone());
    name.map_or(Need::Claim, Need::Word)
}

/// What was made for the entry.
fn for_entry<'a>(
    pod: &Pod,
    claim: &PodClaim,
    own: &'a [Arc<ResourceClaim>],
) -> impl Iterator<Item = &'a Arc<ResourceClaim>> {
    own.iter().filter(move |made| {
        let annotations = made.metadata.annotations.as_ref();
        is_controlled_by(pod, &made.metadata)
            && annotations.and_then(|all| all.get(ENTRY)) == Some(&claim.entry)
    })
}

/// What was made for the entry beside the claim that the pod knows of, and nobody uses.
fn spare<'a>(
    pod: &Pod,
    claim: &PodClaim,
    own: &'a [Arc<ResourceClaim>],
) -> impl Iterator<Item = &'a Arc<ResourceClaim>> {
    for_entry(pod, claim, own).filter(move |made| {
        let StandsFor::Own(known) = &claim.stands_for else { return false };
        made.metadata.name.as_ref() != Some(known)
            && made.metadata.deletion_timestamp.is_none()
            && reserved_for(made).is_empty()
    })
}

fn from_template(ctx: &Ctx, pod: &Pod, entry: &PodResourceClaim) -> Result<ResourceClaim> {
    let name = entry.resource_claim_template_name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let template = ctx.lister::<ResourceClaimTemplate>().get(&Key::new(namespace, name));
    let template = template.ok_or_else(|| {
        let missing = format!("resourceclaimtemplate.resource.k8s.io {name:?} not found");
        Error::Invalid(format!("resource claim template {name:?}: {missing}"))
    })?;
    Ok(generated(pod, &entry.name, &template))
}

fn generated(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let asked = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = asked.annotations.unwrap_or_default();
    annotations.insert(ENTRY.into(), entry.into());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base(pod.metadata.name.as_deref().unwrap_or_default(), entry)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: pod.controller_owner_ref(&()).map(|owner| vec![owner]),
            labels: asked.labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// What a generated name starts with. When it is too long both parts give way, each by its share.
fn base(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= BASE_MAX {
        return whole;
    }
    // Names of pods and entries are ASCII.
    let share = |part: &str| part[..part.len() * BASE_MAX / whole.len()].to_owned();
    format!("{}-{}", share(pod), share(entry))
}

async fn reserve(ctx: &Ctx, pod: &Pod, key: &Key) -> Result<()> {
    let Some(claim) = ctx.lister::<ResourceClaim>().get(key) else { return Ok(()) };
    let Some(reserved) = reserved(pod, &claim) else { return Ok(()) };
    ctx.update_status(&reserved).await.map(drop)
}

/// The claim with a reservation for the pod; none if it has one, or nothing is allocated that could be reserved.
fn reserved(pod: &Pod, claim: &ResourceClaim) -> Option<ResourceClaim> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let known = reserved_for(claim);
    if !is_allocated(claim) || known.iter().any(|one| one.uid == uid) || known.len() >= RESERVED_MAX
    {
        return None;
    }
    let mut claim = claim.clone();
    let consumers = claim.status.get_or_insert_default().reserved_for.get_or_insert_default();
    consumers.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid,
    });
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const POD: &str = "{metadata: {name: web, namespace: ns, uid: u}, spec: {containers: [], resourceClaims: \
        [{name: gpu, resourceClaimTemplateName: one}]}";

    fn claim(name: &str, owner: &str) -> ResourceClaim {
        let owner =
            format!("{{apiVersion: v1, kind: Pod, name: web, uid: {owner}, controller: true}}");
        yaml(&format!(
            "{{metadata: {{name: {name}, namespace: ns, annotations: {{{ENTRY}: gpu}}, ownerReferences: [{owner}]}}, spec: {{}}}}"
        ))
    }

    #[test]
    fn a_claim_is_made_once_for_each_entry_and_told_to_the_pod() {
        let told = "status: {resourceClaimStatuses: [{name: gpu, resourceClaimName: made}]}";
        let skipped = "status: {resourceClaimStatuses: [{name: gpu}]}";
        let (mine, theirs) = (claim("made", "u"), claim("made", "other"));
        let word = || Need::Word("made".into());
        for (status, claims, expected) in [
            ("status: {}", vec![], Need::Claim),
            ("status: {}", vec![&mine], word()),
            ("status: {}", vec![&theirs], Need::Claim),
            (told, vec![&mine], Need::Nothing),
            (told, vec![], Need::Claim),
            (told, vec![&theirs], Need::Claim),
            (skipped, vec![], Need::Nothing),
        ] {
            let pod: Pod = yaml(&format!("{POD}, {status}}}"));
            let entry = &pod_claims(&pod)[0];
            let named = entry.claim().and_then(|_| claims.first().copied());
            let own: Vec<_> = claims.iter().map(|claim| Arc::new((*claim).clone())).collect();
            assert_eq!(need(&pod, entry, named, &own), expected, "{status} {claims:?}");
        }
    }

    /// The answer to a create was lost, and the next one came before the claim was heard of.
    #[test]
    fn a_claim_that_was_made_twice_is_spared_once() {
        let used = {
            let mut used = claim("used", "u");
            let user = yaml("{resource: pods, name: other, uid: o}");
            used.status.get_or_insert_default().reserved_for = Some(vec![user]);
            used
        };
        let own = [claim("made", "u"), claim("again", "u"), claim("theirs", "other"), used];
        let own = own.map(Arc::new);
        let spared = |status: &str| {
            let pod: Pod = yaml(&format!("{POD}, status: {status}}}"));
            let entry = &pod_claims(&pod)[0];
            let spared = spare(&pod, entry, &own).filter_map(|claim| claim.metadata.name.clone());
            spared.collect::<Vec<_>>()
        };
        let told = "{resourceClaimStatuses: [{name: gpu, resourceClaimName: made}]}";
        assert_eq!(spared(told), ["again"]);
        assert!(spared("{}").is_empty(), "the pod does not know yet which one it is");
    }

    #[test]
    fn a_generated_claim_is_its_pods_and_says_for_which_entry() {
        let pod: Pod = yaml(&format!("{POD}}}"));
        let template = "{metadata: {name: one}, spec: {metadata: {labels: {a: b}, annotations: {c: d}}, \
            spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu}}]}}}}";
        let claim = generated(&pod, "gpu", &yaml(template));
        let wanted: ResourceClaim = yaml(&format!(
            "{{metadata: {{generateName: web-gpu-, namespace: ns, labels: {{a: b}}, annotations: {{c: d, {ENTRY}: gpu}}, \
             ownerReferences: [{{apiVersion: v1, kind: Pod, name: web, uid: u, controller: true}}]}}, \
             spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: gpu}}}}]}}}}}}"
        ));
        assert_eq!(claim, wanted);
    }

    #[test]
    fn long_names_give_way_in_proportion() {
        assert_eq!(base("web", "gpu"), "web-gpu-");
        let long = base(&"p".repeat(60), &"e".repeat(20));
        assert_eq!(long, format!("{}-{}", "p".repeat(41), "e".repeat(13)));
    }

    #[test]
    fn only_what_is_allocated_is_reserved_and_only_once() {
        let pod: Pod = yaml(&format!("{POD}}}"));
        let with = |status: &str| {
            let claim: ResourceClaim =
                yaml(&format!("{{metadata: {{name: c}}, spec: {{}}, status: {status}}}"));
            reserved(&pod, &claim).map(|claim| reserved_for(&claim).len())
        };
        assert_eq!(with("{}"), None);
        assert_eq!(with("{allocation: {}}"), Some(1));
        let other = "{allocation: {}, reservedFor: [{resource: pods, name: other, uid: o}]}";
        assert_eq!(with(other), Some(2));
        assert_eq!(
            with("{allocation: {}, reservedFor: [{resource: pods, name: web, uid: u}]}"),
            None
        );
    }
}
