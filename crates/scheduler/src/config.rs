//! The configuration file: `kubescheduler.config.k8s.io/v1` in, profiles out.
//!
//! Counterpart: `apis/config` with its defaults and validation. Differs from upstream: PreFilter and Filter of a plugin,
//! and PreScore and Score, are one and are switched off together; plugins keep their order. What this scheduler has not
//! (plugins of others) is refused, never ignored. Invariant: an unknown field or name is an error.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, PodSpec, PreferredSchedulingTerm, TopologySpreadConstraint,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::SchedulerConfig;
use crate::extenders::{self, ExtenderConfig};
use crate::plugins::{PLUGINS, PluginSet};
use crate::pod_info::Preferred;
use crate::pod_terms::{Own, Spread};
use crate::profile::{
    DEFAULT_NAME, PluginArgs, Profile, ScoringStrategy, SpreadArgs, WeightedResource,
};
use skiff_api::scheduling::Labels;
use skiff_api::scheduling::RequiredNodes;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("not a KubeSchedulerConfiguration: {0}")]
    Unreadable(String),
    #[error("{field}: {what}")]
    Invalid { field: String, what: String },
}

/// Known upstream, and what this scheduler always does or never does.
const ALWAYS: [&str; 2] = ["PrioritySort", "DefaultBinder"];
const PREEMPTION: &str = "DefaultPreemption";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    extenders: Vec<ExtenderConfig>,
    // About the process, which is not the scheduler's own here.
    #[serde(rename = "parallelism")]
    _parallelism: Option<i64>,
    #[serde(rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Plugins {
    multi_point: Switches,
    pre_enqueue: Switches,
    queue_sort: Switches,
    pre_filter: Switches,
    filter: Switches,
    post_filter: Switches,
    pre_score: Switches,
    score: Switches,
    reserve: Switches,
    permit: Switches,
    pre_bind: Switches,
    bind: Switches,
    post_bind: Switches,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Switches {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

// === impl SchedulerConfig ===

impl SchedulerConfig {
    pub fn from_yaml(text: &str) -> Result<SchedulerConfig, ConfigError> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        if file.api_version != "kubescheduler.config.k8s.io/v1"
            || file.kind != "KubeSchedulerConfiguration"
        {
            let what = format!("{}, {} is not served", file.kind, file.api_version);
            return Err(ConfigError::Unreadable(what));
        }
        let mut config =
            SchedulerConfig { extenders: file.extenders, ..SchedulerConfig::default() };
        extenders::check(&mut config.extenders)?;
        let given =
            if file.profiles.is_empty() { vec![FileProfile::default()] } else { file.profiles };
        let profiles = given.into_iter().enumerate().map(|(at, profile)| {
            profile.read(&format!("profiles[{at}]"), file.percentage_of_nodes_to_score.unwrap_or(0))
        });
        config.profiles = profiles.collect::<Result<_, _>>()?;
        one_of_each_name(&config.profiles)?;
        leave_to_extenders(&mut config);
        let seconds = |given: Option<u64>, known| given.map_or(known, Duration::from_secs);
        config.initial_backoff = seconds(file.pod_initial_backoff_seconds, config.initial_backoff);
        config.max_backoff = seconds(file.pod_max_backoff_seconds, config.max_backoff);
        if config.initial_backoff.is_zero() || config.max_backoff < config.initial_backoff {
            let what = "must be greater than 0, and at most podMaxBackoffSeconds";
            return Err(invalid("podInitialBackoffSeconds", what));
        }
        Ok(config)
    }
}

fn one_of_each_name(profiles: &[Profile]) -> Result<(), ConfigError> {
    for (at, profile) in profiles.iter().enumerate() {
        if profiles[..at].iter().any(|other| other.name == profile.name) {
            let field = format!("profiles[{at}].schedulerName");
            return Err(invalid(&field, &format!("duplicate value: {:?}", profile.name)));
        }
    }
    Ok(())
}

/// Resources that an extender counts are not counted here.
fn leave_to_extenders(config: &mut SchedulerConfig) {
    let managed = config.extenders.iter().flat_map(|extender| &extender.managed_resources);
    let left = managed.filter(|resource| resource.ignored_by_scheduler);
    let left: Vec<String> = left.map(|resource| resource.name.clone()).collect();
    for profile in &mut config.profiles {
        profile.args.fit.ignored_resources.extend_from_slice(&left);
    }
}

pub(crate) fn invalid(field: &str, what: &str) -> ConfigError {
    ConfigError::Invalid { field: field.into(), what: what.into() }
}

// === impl FileProfile ===

impl FileProfile {
    fn read(self, field: &str, percentage: usize) -> Result<Profile, ConfigError> {
        let percentage = self.percentage_of_nodes_to_score.unwrap_or(percentage);
        if percentage > 100 {
            let field = format!("{field}.percentageOfNodesToScore");
            return Err(invalid(&field, "not in valid range [0-100]"));
        }
        let chosen = Chosen::of(&self.plugins, &format!("{field}.plugins"))?;
        let mut args = PluginArgs::default();
        for (at, config) in self.plugin_config.into_iter().enumerate() {
            set_args(&mut args, config, &format!("{field}.pluginConfig[{at}]"))?;
        }
        let name = self.scheduler_name.unwrap_or_else(|| DEFAULT_NAME.into());
        let mut profile = Profile::new(&name, chosen.filters, chosen.scores, &chosen.weights, args);
        profile.percentage_of_nodes_to_score = percentage;
        profile.preempts = chosen.preempts;
        Ok(profile)
    }
}

/// What of the default profile is left, and how much it counts.
struct Chosen {
    filters: PluginSet,
    scores: PluginSet,
    weights: Vec<i64>,
    preempts: bool,
}

// === impl Chosen ===

impl Chosen {
    fn of(plugins: &Plugins, field: &str) -> Result<Chosen, ConfigError> {
        let mut chosen = Chosen {
            filters: PluginSet::all(),
            scores: PluginSet::all(),
            weights: PLUGINS.iter().map(|plugin| plugin.weight()).collect(),
            preempts: true,
        };
        let points = [
            ("multiPoint", &plugins.multi_point, true, true),
            ("preEnqueue", &plugins.pre_enqueue, false, false),
            ("queueSort", &plugins.queue_sort, false, false),
            ("preFilter", &plugins.pre_filter, true, false),
            ("filter", &plugins.filter, true, false),
            ("postFilter", &plugins.post_filter, false, false),
            ("preScore", &plugins.pre_score, false, true),
            ("score", &plugins.score, false, true),
            ("reserve", &plugins.reserve, false, false),
            ("permit", &plugins.permit, false, false),
            ("preBind", &plugins.pre_bind, false, false),
            ("bind", &plugins.bind, false, false),
            ("postBind", &plugins.post_bind, false, false),
        ];
        for (point, switches, filters, scores) in points {
            let field = format!("{field}.{point}");
            for named in &switches.disabled {
                chosen.switch(named, (filters, scores), false, &field)?;
            }
            for named in &switches.enabled {
                chosen.switch(named, (filters, scores), true, &field)?;
            }
        }
        Ok(chosen)
    }

    fn switch(
        &mut self,
        named: &Named,
        (filters, scores): (bool, bool),
        on: bool,
        field: &str,
    ) -> Result<(), ConfigError> {
        let preempts = field.ends_with("multiPoint") || field.ends_with("postFilter");
        let name = named.name.as_str();
        if name == "*" || name == PREEMPTION {
            self.preempts = if preempts { on } else { self.preempts };
        }
        let places: Vec<usize> = match name {
            "*" => (0..PLUGINS.len()).collect(),
            PREEMPTION => Vec::new(),
            name if ALWAYS.contains(&name) => Vec::new(),
            name => {
                let place = PLUGINS.iter().position(|plugin| plugin.name() == name);
                vec![place.ok_or_else(|| invalid(field, &format!("no plugin {name:?}")))?]
            }
        };
        for place in places {
            if filters {
                self.filters.set(place, on);
            }
            if scores {
                self.scores.set(place, on);
                self.weights[place] =
                    named.weight.filter(|w| *w > 0).unwrap_or(self.weights[place]);
            }
        }
        Ok(())
    }
}

// What each plugin's arguments look like.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionFile {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodAffinityFile {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityFile {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitFile {
    ignored_resources: Option<Vec<String>>,
    ignored_resource_groups: Option<Vec<String>>,
    scoring_strategy: Option<StrategyFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    resources: Option<Vec<ResourceFile>>,
    requested_to_capacity_ratio: Option<RatioFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioFile {
    shape: Vec<PointFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointFile {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceFile {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalancedFile {
    resources: Option<Vec<ResourceFile>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadFile {
    default_constraints: Option<Vec<TopologySpreadConstraint>>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeBindingFile {
    bind_timeout_seconds: Option<u64>,
}

fn set_args(args: &mut PluginArgs, config: PluginConfig, field: &str) -> Result<(), ConfigError> {
    let field = format!("{field}.args");
    match config.name.as_str() {
        PREEMPTION => {
            let given: PreemptionFile = read(config.args, &field)?;
            let known = &mut args.preemption;
            replace(
                &mut known.min_candidate_nodes_percentage,
                given.min_candidate_nodes_percentage,
            );
            replace(&mut known.min_candidate_nodes_absolute, given.min_candidate_nodes_absolute);
        }
        "InterPodAffinity" => {
            let given: InterPodAffinityFile = read(config.args, &field)?;
            let known = &mut args.inter_pod_affinity;
            replace(&mut known.hard_pod_affinity_weight, given.hard_pod_affinity_weight);
            let modest = given.ignore_preferred_terms_of_existing_pods;
            replace(&mut known.ignore_preferred_terms_of_existing_pods, modest);
        }
        "NodeAffinity" => {
            let given: NodeAffinityFile = read(config.args, &field)?;
            add_affinity(args, given.added_affinity);
        }
        "NodeResourcesFit" => set_fit(args, read(config.args, &field)?, &field)?,
        "NodeResourcesBalancedAllocation" => {
            let given: BalancedFile = read(config.args, &field)?;
            replace(&mut args.balanced, given.resources.map(weighted));
        }
        "PodTopologySpread" => set_spread(args, read(config.args, &field)?, &field)?,
        "VolumeBinding" => {
            let given: VolumeBindingFile = read(config.args, &field)?;
            let timeout = given.bind_timeout_seconds.map(Duration::from_secs);
            replace(&mut args.volume_binding.bind_timeout, timeout);
        }
        name => return Err(invalid(&field, &format!("plugin {name:?} takes no arguments"))),
    }
    Ok(())
}

/// The type of the arguments may stand above them.
fn read<T: DeserializeOwned>(mut args: Value, field: &str) -> Result<T, ConfigError> {
    if let Some(fields) = args.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    serde_json::from_value(args).map_err(|error| invalid(field, &error.to_string()))
}

fn replace<T>(known: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *known = given;
    }
}

fn add_affinity(args: &mut PluginArgs, added: Option<NodeAffinity>) {
    let preferred: Vec<PreferredSchedulingTerm> = added
        .as_ref()
        .and_then(|added| added.preferred_during_scheduling_ignored_during_execution.clone())
        .unwrap_or_default();
    let affinity = Affinity { node_affinity: added, ..Affinity::default() };
    let spec = PodSpec { affinity: Some(affinity), ..PodSpec::default() };
    args.added_affinity.required = RequiredNodes::of(&spec);
    args.added_affinity.preferred = preferred.iter().map(Preferred::of).collect();
}

fn set_fit(args: &mut PluginArgs, given: FitFile, field: &str) -> Result<(), ConfigError> {
    let known = &mut args.fit;
    replace(&mut known.ignored_resources, given.ignored_resources);
    replace(&mut known.ignored_resource_groups, given.ignored_resource_groups);
    let Some(strategy) = given.scoring_strategy else { return Ok(()) };
    let field = format!("{field}.scoringStrategy");
    replace(&mut known.resources, strategy.resources.map(weighted));
    known.strategy = match (strategy.kind.as_deref(), strategy.requested_to_capacity_ratio) {
        (None | Some("LeastAllocated"), _) => ScoringStrategy::LeastAllocated,
        (Some("MostAllocated"), _) => ScoringStrategy::MostAllocated,
        (Some("RequestedToCapacityRatio"), Some(ratio)) => {
            let shape: Vec<_> = ratio.shape.iter().map(|p| (p.utilization, p.score)).collect();
            let rising = shape.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let inside = |(x, y): &(i64, i64)| (0..=100).contains(x) && (0..=10).contains(y);
            if shape.is_empty() || !rising || !shape.iter().all(inside) {
                let what = "utilization values must be sorted in increasing order, from 0 to 100, with scores from 0 to 10";
                return Err(invalid(&format!("{field}.requestedToCapacityRatio.shape"), what));
            }
            ScoringStrategy::RequestedToCapacityRatio(shape)
        }
        (Some("RequestedToCapacityRatio"), None) => {
            return Err(invalid(&format!("{field}.requestedToCapacityRatio"), "required value"));
        }
        (Some(other), _) => {
            return Err(invalid(
                &format!("{field}.type"),
                &format!("unsupported value: {other:?}"),
            ));
        }
    };
    Ok(())
}

fn weighted(resources: Vec<ResourceFile>) -> Vec<WeightedResource> {
    let weighted = |resource: ResourceFile| {
        let weight = resource.weight.filter(|weight| *weight > 0).unwrap_or(1);
        WeightedResource { name: resource.name, weight }
    };
    resources.into_iter().map(weighted).collect()
}

fn set_spread(args: &mut PluginArgs, given: SpreadFile, field: &str) -> Result<(), ConfigError> {
    let constraints = given.default_constraints.unwrap_or_default();
    args.spread = match given.defaulting_type.as_deref() {
        None | Some("System") if constraints.is_empty() => SpreadArgs::System,
        Some("List") => {
            let labels = Labels::new();
            let own = Own { namespace: "", labels: &labels };
            SpreadArgs::List(constraints.iter().map(|given| Spread::of(given, own)).collect())
        }
        _ => {
            let what = "when .defaultingType is not \"List\", default constraints cannot be set";
            return Err(invalid(&format!("{field}.defaultConstraints"), what));
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn read(text: &str) -> Result<SchedulerConfig, ConfigError> {
        SchedulerConfig::from_yaml(&format!("{HEAD}{text}"))
    }

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        let error = read(text).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    fn names(profile: &Profile) -> Vec<&'static str> {
        profile.filters().iter().map(|(_, plugin)| plugin.name()).collect()
    }

    #[test]
    fn an_empty_file_is_the_default_profile() {
        let config = read("").unwrap();
        assert_eq!(config.profiles.len(), 1);
        assert_eq!(config.profiles[0].name, DEFAULT_NAME);
        assert_eq!(names(&config.profiles[0]).len(), PLUGINS.len());
    }

    #[test]
    fn profiles_choose_plugins_and_weights() {
        let config = read(
            "
profiles:
- schedulerName: packing
  plugins:
    filter: {disabled: [{name: TaintToleration}]}
    score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 7}]}
    postFilter: {disabled: [{name: DefaultPreemption}]}
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}
- schedulerName: other
  plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeName}]}}
",
        )
        .unwrap();
        let [packing, other] = config.profiles.as_slice() else { panic!("two profiles") };
        assert!(!names(packing).contains(&"TaintToleration") && !packing.preempts);
        let scores: Vec<_> = packing.scores().map(|(p, weight)| (p.name(), weight)).collect();
        assert_eq!(scores, [("NodeResourcesFit", 7)]);
        assert_eq!(packing.args.fit.strategy, ScoringStrategy::MostAllocated);
        assert_eq!(names(other), ["NodeName"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        refuses("colour: red", "colour");
        refuses("extenders: [{urlPrefix: 'http://x', colour: red}]", "colour");
        refuses("extenders: [{urlPrefix: 'http://x', httpTimeout: soon}]", "invalid duration");
        let unweighted = "extenders: [{urlPrefix: 'http://x', prioritizeVerb: score}]";
        refuses(unweighted, "extenders[0].weight: must have a positive weight applied to it");
        let binders = "extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]";
        refuses(binders, "only one extender can implement bind");
        refuses("profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]", "no plugin \"Mine\"");
        refuses("profiles: [{schedulerName: a}, {schedulerName: a}]", "profiles[1].schedulerName");
        refuses("percentageOfNodesToScore: 101", "not in valid range");
        refuses("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds");
        let shape = "{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 9, score: 1}, {utilization: 3, score: 1}]}}";
        refuses(
            &format!(
                "profiles: [{{pluginConfig: [{{name: NodeResourcesFit, args: {{scoringStrategy: {shape}}}}}]}}]"
            ),
            "sorted in increasing order",
        );
    }
}
