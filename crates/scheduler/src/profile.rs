//! A profile: which plugins place the pods of one `schedulerName`, how much they count, and their arguments.
//!
//! Counterpart: `profile` and the defaults of `apis/config/v1`. Invariant: plugins keep the order of `PLUGINS`, whichever
//! of them a profile has.

use std::time::Duration;

use crate::framework::Plugin;
use crate::plugins::{PLUGINS, PluginSet};
use crate::pod_info::Preferred;
use crate::pod_terms::Spread;
use skiff_api::scheduling::RequiredNodes;

pub const DEFAULT_NAME: &str = "default-scheduler";

/// A plugin with its place in `PLUGINS`.
pub type Placed = (usize, &'static dyn Plugin);

#[derive(Clone)]
pub struct Profile {
    pub name: String,
    /// How much of the cluster to look at for one pod; 0 lets the size of the cluster decide.
    pub percentage_of_nodes_to_score: usize,
    /// Whether less important pods are evicted for one that fits nowhere.
    pub preempts: bool,
    pub args: PluginArgs,
    filters: Vec<Placed>,
    scores: Vec<(Placed, i64)>,
}

/// Arguments of the plugins that take any; the defaults are upstream's.
#[derive(Clone, Debug)]
pub struct PluginArgs {
    pub preemption: PreemptionArgs,
    pub fit: FitArgs,
    pub balanced: Vec<WeightedResource>,
    pub inter_pod_affinity: InterPodAffinityArgs,
    pub spread: SpreadArgs,
    pub added_affinity: AddedAffinity,
    pub volume_binding: VolumeBindingArgs,
}

#[derive(Clone, Debug)]
pub struct PreemptionArgs {
    pub min_candidate_nodes_percentage: usize,
    pub min_candidate_nodes_absolute: usize,
}

#[derive(Clone, Debug)]
pub struct FitArgs {
    pub strategy: ScoringStrategy,
    pub resources: Vec<WeightedResource>,
    pub ignored_resources: Vec<String>,
    pub ignored_resource_groups: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ScoringStrategy {
    LeastAllocated,
    MostAllocated,
    /// Points of utilisation in percent and score (0 to 10), between which is interpolated.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct WeightedResource {
    pub name: String,
    pub weight: i64,
}

#[derive(Clone, Debug)]
pub struct InterPodAffinityArgs {
    /// How much a placed pod's required affinity draws pods that match it.
    pub hard_pod_affinity_weight: i64,
    /// Whether only the required terms of placed pods count for pods that have no affinity of their own.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

/// Constraints for pods that declare none.
#[derive(Clone, Debug, Default)]
pub enum SpreadArgs {
    #[default]
    System,
    List(Vec<Spread>),
}

/// Node affinity that every pod of the profile has besides its own.
#[derive(Clone, Debug, Default)]
pub struct AddedAffinity {
    pub required: RequiredNodes,
    pub preferred: Vec<Preferred>,
}

#[derive(Clone, Debug)]
pub struct VolumeBindingArgs {
    pub bind_timeout: Duration,
}

// === impl Profile ===

impl Default for Profile {
    fn default() -> Profile {
        let enabled = PLUGINS.iter().map(|plugin| plugin.weight()).collect::<Vec<_>>();
        Profile::new(
            DEFAULT_NAME,
            PluginSet::all(),
            PluginSet::all(),
            &enabled,
            PluginArgs::default(),
        )
    }
}

impl Profile {
    /// `weights` are by place in `PLUGINS`.
    pub fn new(
        name: &str,
        filters: PluginSet,
        scores: PluginSet,
        weights: &[i64],
        args: PluginArgs,
    ) -> Profile {
        let placed = |set: PluginSet| {
            PLUGINS.iter().copied().enumerate().filter(move |(place, _)| set.contains(*place))
        };
        Profile {
            name: name.to_owned(),
            percentage_of_nodes_to_score: 0,
            preempts: true,
            args,
            filters: placed(filters).collect(),
            scores: placed(scores).map(|placed| (placed, weights[placed.0])).collect(),
        }
    }

    pub fn filters(&self) -> &[Placed] {
        &self.filters
    }

    /// With how much each counts.
    pub fn scores(&self) -> impl Iterator<Item = (&'static dyn Plugin, i64)> {
        self.scores.iter().map(|((_, plugin), weight)| (*plugin, *weight))
    }
}

// === impl PluginArgs ===

impl Default for PluginArgs {
    fn default() -> PluginArgs {
        PluginArgs {
            preemption: PreemptionArgs::default(),
            fit: FitArgs::default(),
            balanced: cpu_and_memory(),
            inter_pod_affinity: InterPodAffinityArgs::default(),
            spread: SpreadArgs::default(),
            added_affinity: AddedAffinity::default(),
            volume_binding: VolumeBindingArgs::default(),
        }
    }
}

impl Default for PreemptionArgs {
    fn default() -> PreemptionArgs {
        PreemptionArgs { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

impl Default for FitArgs {
    fn default() -> FitArgs {
        FitArgs {
            strategy: ScoringStrategy::LeastAllocated,
            resources: cpu_and_memory(),
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
        }
    }
}

impl Default for InterPodAffinityArgs {
    fn default() -> InterPodAffinityArgs {
        InterPodAffinityArgs {
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
        }
    }
}

impl Default for VolumeBindingArgs {
    fn default() -> VolumeBindingArgs {
        VolumeBindingArgs { bind_timeout: Duration::from_secs(600) }
    }
}

pub fn cpu_and_memory() -> Vec<WeightedResource> {
    ["cpu", "memory"].map(|name| WeightedResource { name: name.into(), weight: 1 }).into()
}
