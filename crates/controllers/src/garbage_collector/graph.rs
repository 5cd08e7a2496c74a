//! Who owns whom.
//!
//! Observed metadata in -> what to do about an object (`plan`). Pure. Counterpart: `graph.go`, `graph_builder.go`.
//! Invariant: `dependents` is the exact reverse of `owners` over all observed objects, also for owners never observed.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::ObjectId;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// What the graph keeps of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub id: ObjectId,
    pub owners: Vec<OwnerReference>,
    pub terminating: bool,
    pub foreground: bool,
    pub orphan: bool,
}

/// What there is to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Nothing,
    /// Terminating with the orphan finalizer: dependents lose this owner, then the finalizer goes.
    Orphan {
        object: ObjectId,
        dependents: Vec<ObjectId>,
    },
    /// Terminating in the foreground, waiting for these dependents: they are to be looked at.
    DeleteBlocking(Vec<String>),
    /// Terminating in the foreground, and nothing blocks any more.
    FinishForeground(ObjectId),
    CheckOwners(Owners),
}

/// What the graph knows about the owners of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Owners {
    pub object: ObjectId,
    pub solid: Vec<String>,
    /// Owners that are being deleted in the foreground and wait for their dependents.
    pub waiting: Vec<String>,
    /// Owners that the API server has to be asked about.
    pub unknown: Vec<OwnerReference>,
    pub has_dependents: bool,
    pub foreground: bool,
    pub orphan: bool,
}

#[derive(Default)]
pub struct Graph {
    objects: HashMap<String, Observed>,
    dependents: HashMap<String, BTreeSet<String>>,
}

// === impl Owners ===

impl Owners {
    /// Whether these and no others were judged.
    pub fn are<'a>(&self, named: impl Iterator<Item = &'a String>) -> bool {
        let unknown = self.unknown.iter().map(|owner| &owner.uid);
        let judged: BTreeSet<_> = self.solid.iter().chain(&self.waiting).chain(unknown).collect();
        judged == named.collect()
    }
}

// === impl Observed ===

impl Observed {
    pub fn new(id: ObjectId, meta: &ObjectMeta) -> Observed {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|held| held == finalizer);
        Observed {
            id,
            owners: meta.owner_references.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    fn waits_for_dependents(&self) -> bool {
        self.terminating && self.foreground
    }
}

// === impl Graph ===

impl Graph {
    /// Takes in an object; returns the uids to look at because of it.
    pub fn observe(&mut self, object: Observed) -> Vec<String> {
        let uid = object.id.uid.clone();
        let before = self.objects.remove(&uid);
        let same_owners = before.as_ref().is_some_and(|before| before.owners == object.owners);
        if let Some(before) = &before
            && !same_owners
        {
            self.unlink(before);
        }
        let mut concerned = Vec::new();
        let needs_a_look = !object.owners.is_empty() && (!same_owners || before.is_none());
        if needs_a_look || (object.terminating && (object.foreground || object.orphan)) {
            concerned.push(uid.clone());
        }
        // An owner that begins to wait for its dependents concerns them; so does a dependent that stops blocking.
        if object.waits_for_dependents()
            && !before.as_ref().is_some_and(Observed::waits_for_dependents)
        {
            concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        let freed = before.as_ref().filter(|_| !same_owners);
        concerned.extend(freed.into_iter().flat_map(|before| self.waiting_owners(before)));
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        self.objects.insert(uid, object);
        concerned
    }

    /// Forgets an object; its dependents have to be looked at, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else { return Vec::new() };
        self.unlink(&object);
        let mut concerned: Vec<String> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        concerned.extend(self.waiting_owners(&object));
        concerned
    }

    fn waiting_owners(&self, object: &Observed) -> Vec<String> {
        let owners = object.owners.iter().filter_map(|owner| self.objects.get(&owner.uid));
        owners
            .filter(|owner| owner.waits_for_dependents())
            .map(|owner| owner.id.uid.clone())
            .collect()
    }

    fn unlink(&mut self, object: &Observed) {
        for owner in &object.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(&object.id.uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Objects with an owner that has never been observed.
    pub fn dependents_of_unknown(&self) -> Vec<String> {
        let unknown =
            self.dependents.iter().filter(|(owner, _)| !self.objects.contains_key(*owner));
        unknown.flat_map(|(_, dependents)| dependents.iter().cloned()).collect()
    }

    pub fn plan(&self, uid: &str) -> Work {
        let Some(object) = self.objects.get(uid) else { return Work::Nothing };
        if object.terminating && object.orphan {
            return Work::Orphan {
                object: object.id.clone(),
                dependents: self.dependents_ids(uid),
            };
        }
        if object.waits_for_dependents() {
            let blocking = self.blocking(uid);
            return match blocking.is_empty() {
                true => Work::FinishForeground(object.id.clone()),
                false => Work::DeleteBlocking(blocking),
            };
        }
        if object.terminating || object.owners.is_empty() {
            return Work::Nothing;
        }
        self.classify(object)
    }

    fn classify(&self, object: &Observed) -> Work {
        let mut owners = Owners {
            object: object.id.clone(),
            solid: Vec::new(),
            waiting: Vec::new(),
            unknown: Vec::new(),
            has_dependents: self.dependents.contains_key(&object.id.uid),
            foreground: object.foreground,
            orphan: object.orphan,
        };
        for reference in &object.owners {
            match self
                .objects
                .get(&reference.uid)
                .filter(|owner| is_meant(object, owner, reference))
            {
                Some(owner) if owner.waits_for_dependents() => {
                    owners.waiting.push(reference.uid.clone())
                }
                Some(_) => owners.solid.push(reference.uid.clone()),
                None => owners.unknown.push(reference.clone()),
            }
        }
        Work::CheckOwners(owners)
    }

    fn dependents_ids(&self, uid: &str) -> Vec<ObjectId> {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        dependents
            .filter_map(|dependent| self.objects.get(dependent))
            .map(|dependent| dependent.id.clone())
            .collect()
    }

    /// Dependents that keep a foreground deletion from finishing. Of a circle of owners that all wait, none holds another.
    fn blocking(&self, uid: &str) -> Vec<String> {
        let mut blocking = self.blockers(uid);
        blocking.retain(|dependent| !self.waits_for(dependent, uid));
        blocking
    }

    /// Whether an object's own foreground deletion waits, through others that wait, for `other`.
    fn waits_for(&self, uid: &str, other: &str) -> bool {
        let (mut seen, mut next) = (HashSet::new(), vec![uid.to_owned()]);
        while let Some(uid) = next.pop() {
            if !self.objects.get(&uid).is_some_and(Observed::waits_for_dependents) {
                continue;
            }
            if uid == other {
                return true;
            }
            if seen.insert(uid.clone()) {
                next.extend(self.blockers(&uid));
            }
        }
        false
    }

    /// Dependents whose references say that they block the owner's deletion.
    fn blockers(&self, uid: &str) -> Vec<String> {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        let blocks = |dependent: &&String| {
            let references =
                self.objects.get(*dependent).into_iter().flat_map(|object| &object.owners);
            references
                .into_iter()
                .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        dependents.filter(blocks).cloned().collect()
    }
}

/// A reference means the object of this uid only if kind and name agree, and, for namespaced owners, the namespace.
fn is_meant(dependent: &Observed, owner: &Observed, reference: &OwnerReference) -> bool {
    let id = &owner.id;
    id.name == reference.name
        && id.kind.resource.kind == reference.kind
        && (!id.kind.namespaced || id.namespace == dependent.id.namespace)
}

/// The end of it: keep the object, drop some of its owners, or delete it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Keep,
    DropOwners(Vec<String>),
    Delete(Policy),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// Decides once it is known which of the unknown owners are absent; the others are solid.
pub fn verdict(owners: &Owners, absent: &[String]) -> Verdict {
    let any_solid = !owners.solid.is_empty() || absent.len() < owners.unknown.len();
    if any_solid {
        let gone: Vec<String> = absent.iter().chain(&owners.waiting).cloned().collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::DropOwners(gone) };
    }
    Verdict::Delete(match owners {
        Owners { waiting, has_dependents: true, .. } if !waiting.is_empty() => Policy::Foreground,
        Owners { orphan: true, .. } => Policy::Orphan,
        Owners { foreground: true, .. } => Policy::Foreground,
        _ => Policy::Background,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Kind;
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use kube::core::ApiResource;

    fn object(uid: &str, owners: &[&str]) -> Observed {
        let kind =
            Arc::new(Kind { resource: ApiResource::erase::<ReplicaSet>(&()), namespaced: true });
        let id = ObjectId { kind, namespace: "ns".into(), name: uid.into(), uid: uid.into() };
        let owner = |uid: &&str| OwnerReference {
            uid: (*uid).into(),
            name: (*uid).into(),
            kind: "ReplicaSet".into(),
            block_owner_deletion: Some(true),
            ..Default::default()
        };
        let owners = owners.iter().map(owner).collect();
        Observed { id, owners, terminating: false, foreground: false, orphan: false }
    }

    fn foreground(uid: &str, owners: &[&str]) -> Observed {
        Observed { terminating: true, foreground: true, ..object(uid, owners) }
    }

    fn graph(objects: &[Observed]) -> Graph {
        let mut graph = Graph::default();
        objects.iter().for_each(|object| drop(graph.observe(object.clone())));
        graph
    }

    fn owners(graph: &Graph, uid: &str) -> Owners {
        match graph.plan(uid) {
            Work::CheckOwners(owners) => owners,
            other => panic!("expected a look at owners, got {other:?}"),
        }
    }

    #[test]
    fn losing_the_last_owner_means_deletion() {
        let mut graph = graph(&[object("owner", &[]), object("pod", &["owner"])]);
        assert_eq!(verdict(&owners(&graph, "pod"), &[]), Verdict::Keep);
        assert_eq!(graph.remove("owner"), ["pod"]);
        let lost = owners(&graph, "pod");
        assert_eq!(lost.unknown.len(), 1, "absence is never decided from the graph");
        assert_eq!(verdict(&lost, &["owner".into()]), Verdict::Delete(Policy::Background));
        assert_eq!(verdict(&lost, &[]), Verdict::Keep, "the API server knew the owner after all");
    }

    #[test]
    fn one_owner_of_two_is_enough() {
        let graph = graph(&[object("a", &[]), object("pod", &["a", "b"])]);
        assert_eq!(
            verdict(&owners(&graph, "pod"), &["b".into()]),
            Verdict::DropOwners(vec!["b".into()])
        );
    }

    /// An orphan that another owner took in its stead was deleted: their number was the same.
    #[test]
    fn another_owner_than_the_one_that_was_judged_is_noticed() {
        let judged = owners(&graph(&[object("pod", &["a", "b"])]), "pod");
        for (named, same) in [(["b", "a"].as_slice(), true), (&["a", "c"], false), (&["a"], false)]
        {
            let named: Vec<String> = named.iter().map(|uid| (*uid).to_owned()).collect();
            assert_eq!(judged.are(named.iter()), same, "{named:?}");
        }
    }

    #[test]
    fn foreground_deletion_goes_from_the_leaves_up() {
        let mut graph = graph(&[
            object("deployment", &[]),
            object("set", &["deployment"]),
            object("pod", &["set"]),
        ]);
        let concerned = graph.observe(foreground("deployment", &[]));
        assert_eq!(concerned, ["deployment", "set"]);
        assert_eq!(graph.plan("deployment"), Work::DeleteBlocking(vec!["set".into()]));
        assert_eq!(verdict(&owners(&graph, "set"), &[]), Verdict::Delete(Policy::Foreground));
        graph.observe(foreground("set", &["deployment"]));
        assert_eq!(verdict(&owners(&graph, "pod"), &[]), Verdict::Delete(Policy::Background));
        assert_eq!(graph.remove("pod"), ["set"]);
        assert!(matches!(graph.plan("set"), Work::FinishForeground(_)));
        assert_eq!(graph.remove("set"), ["deployment"]);
        assert!(matches!(graph.plan("deployment"), Work::FinishForeground(_)));
    }

    #[test]
    fn a_circle_of_owners_does_not_wait_for_itself() {
        let mut graph = graph(&[object("a", &["c"]), object("b", &["a"]), object("c", &["b"])]);
        graph.observe(foreground("a", &["c"]));
        assert_eq!(graph.plan("a"), Work::DeleteBlocking(vec!["b".into()]));
        graph.observe(foreground("b", &["a"]));
        assert_eq!(graph.plan("b"), Work::DeleteBlocking(vec!["c".into()]));
        graph.observe(foreground("c", &["b"]));
        for object in ["a", "b", "c"] {
            assert!(matches!(graph.plan(object), Work::FinishForeground(_)), "{object}");
        }
    }

    #[test]
    fn orphaning_names_the_dependents() {
        let orphaning = Observed { terminating: true, orphan: true, ..object("set", &[]) };
        let graph = graph(&[object("pod", &["set"]), orphaning]);
        assert!(
            matches!(graph.plan("set"), Work::Orphan { dependents, .. } if dependents[0].uid == "pod")
        );
    }

    #[test]
    fn an_owner_in_another_namespace_is_not_meant() {
        let mut elsewhere = object("owner", &[]);
        elsewhere.id.namespace = "other".into();
        let graph = graph(&[elsewhere, object("pod", &["owner"])]);
        assert_eq!(owners(&graph, "pod").unknown.len(), 1);
    }

    #[test]
    fn observing_the_same_again_concerns_nobody() {
        let mut graph = graph(&[object("owner", &[]), object("pod", &["owner"])]);
        assert!(graph.observe(object("pod", &["owner"])).is_empty());
        assert_eq!(graph.dependents_of_unknown(), Vec::<String>::new());
    }
}
