//! What FlowSchemas and PriorityLevelConfigurations say, parsed once.
//!
//! Objects -> schemas in the order they are tried, levels with their shapes and seats. Counterpart: the digesting half of
//! `apf_controller.go`. Invariant: a level keeps its name's [`Level`], so seats taken under an older configuration count.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::meta::meta;

use super::counts::FlowCounts;
use super::lending::{self, Demand};
use super::level::{Level, Shape};
use super::matching::{Named, Rule};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

#[derive(Default)]
pub struct Config {
    /// By precedence, then by name.
    pub schemas: Vec<Arc<Schema>>,
    pub levels: BTreeMap<String, Share>,
}

pub struct Schema {
    pub name: String,
    /// The objects' ids, as headers tell them.
    pub uid: HeaderValue,
    pub level_uid: HeaderValue,
    pub level: Arc<Level>,
    pub counts: Arc<FlowCounts>,
    precedence: i64,
    distinguisher: Option<Distinguisher>,
    rules: Vec<Rule>,
}

/// A level and how many seats it may have.
pub struct Share {
    pub level: Arc<Level>,
    pub shape: Shape,
    pub nominal: usize,
    pub min: usize,
    pub max: usize,
    uid: HeaderValue,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SchemaSpec {
    priority_level_configuration: Named,
    matching_precedence: i64,
    distinguisher_method: Option<Method>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Method {
    #[serde(rename = "type")]
    by: Distinguisher,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LevelSpec {
    limited: Option<Limits>,
    exempt: Option<Limits>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limits {
    nominal_concurrency_shares: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: Response,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    queuing: Option<Queuing>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queuing {
    queues: usize,
    hand_size: usize,
    queue_length_limit: usize,
}

pub const CATCH_ALL: &str = "catch-all";
/// Upstream's matching precedence of the schema that takes what no other does.
const LAST: i64 = 10_000;

// === impl Config ===

impl Config {
    /// `seats` is what all levels share. An object that cannot be read is left out: validation keeps such from being stored.
    pub fn read(old: &Config, schemas: &[Value], levels: &[Value], seats: usize) -> Config {
        let specs: Vec<(&Value, LevelSpec)> = levels.iter().filter_map(parsed).collect();
        let shares: u32 = specs.iter().map(|(_, spec)| spec.limits().0).sum();
        let levels: BTreeMap<String, Share> = specs
            .iter()
            .map(|(object, spec)| Share::new(old, object, spec, seats, shares.max(1)))
            .map(|share| (share.level.name.clone(), share))
            .collect();
        let mut schemas: Vec<Arc<Schema>> = schemas
            .iter()
            .filter_map(parsed)
            .filter_map(|(object, spec)| Schema::new(old, &levels, object, spec))
            .map(Arc::new)
            .collect();
        schemas.sort_by(|one, other| {
            (one.precedence, &one.name).cmp(&(other.precedence, &other.name))
        });
        Config { schemas, levels }
    }

    /// The first schema that matches; what nothing matches is the last one's.
    pub fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<&Arc<Schema>> {
        let matching = self.schemas.iter().find(|schema| schema.matches(user, info));
        matching.or_else(|| self.schemas.iter().rev().find(|schema| schema.precedence >= LAST))
    }

    /// Sets every level's limit by what it was seen to want.
    pub fn share_out(&self) {
        let (exempt, limited): (Vec<&Share>, Vec<&Share>) =
            self.levels.values().partition(|share| share.shape == Shape::Exempt);
        let total: usize = self.levels.values().map(|share| share.nominal).sum();
        // What exempt levels use is gone for the others, as far as they lend it back.
        let taken: usize = exempt.iter().map(|share| share.level.take_high().max(share.min)).sum();
        let demands: Vec<Demand> = limited.iter().map(|share| share.demand()).collect();
        let limits = lending::allocate(total.saturating_sub(taken), &demands);
        for (share, limit) in limited.iter().zip(limits) {
            share.level.configure(share.shape, limit);
        }
        exempt.iter().for_each(|share| share.level.configure(share.shape, share.nominal));
    }
}

/// An object and its spec.
fn parsed<T: for<'de> Deserialize<'de>>(object: &Value) -> Option<(&Value, T)> {
    let spec = T::deserialize(&object["spec"]);
    let spec = spec.inspect_err(|error| {
        tracing::warn!(%error, name = meta(object).name(), "a flow control object cannot be read");
    });
    Some((object, spec.ok()?))
}

fn uid(object: &Value) -> HeaderValue {
    HeaderValue::from_str(meta(object).uid()).unwrap_or(HeaderValue::from_static(""))
}

// === impl Schema ===

impl Schema {
    /// None if there is no such level: a dangling schema classifies nothing.
    fn new(
        old: &Config,
        levels: &BTreeMap<String, Share>,
        object: &Value,
        spec: SchemaSpec,
    ) -> Option<Schema> {
        let name = meta(object).name();
        let share = levels.get(&spec.priority_level_configuration.name)?;
        let known = old
            .schemas
            .iter()
            .find(|schema| schema.name == name && schema.level.name == share.level.name);
        Some(Schema {
            name: name.to_owned(),
            uid: uid(object),
            level_uid: share.uid.clone(),
            level: share.level.clone(),
            counts: known.map_or_else(
                || FlowCounts::new(name, &share.level.name),
                |schema| schema.counts.clone(),
            ),
            precedence: spec.matching_precedence,
            distinguisher: spec.distinguisher_method.map(|method| method.by),
            rules: spec.rules,
        })
    }

    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// What tells this schema's flows apart.
    pub fn distinguisher<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Some(Distinguisher::ByUser) => &user.name,
            Some(Distinguisher::ByNamespace) => &info.namespace,
            None => "",
        }
    }
}

// === impl Share ===

impl Share {
    fn new(old: &Config, object: &Value, spec: &LevelSpec, seats: usize, shares: u32) -> Share {
        let name = meta(object).name();
        let known = old.levels.get(name).map(|share| share.level.clone());
        let (own, lendable, borrowing) = spec.limits();
        let nominal = (seats * own as usize).div_ceil(shares as usize);
        let percent = |of: u32| (nominal as f64 * f64::from(of) / 100.0).round() as usize;
        Share {
            level: known.unwrap_or_else(|| Level::new(name)),
            shape: spec.shape(),
            nominal,
            min: nominal - percent(lendable.min(100)),
            max: borrowing.map_or(seats, |limit| nominal + percent(limit)),
            uid: uid(object),
        }
    }

    fn demand(&self) -> Demand {
        let high = self.level.take_high();
        Demand { min: self.min, nominal: self.nominal, max: self.max, high }
    }
}

// === impl LevelSpec ===

impl LevelSpec {
    /// Shares, and the percentages to lend and to borrow.
    fn limits(&self) -> (u32, u32, Option<u32>) {
        let limits = self.limited.as_ref().or(self.exempt.as_ref());
        limits.map_or((0, 0, None), |limits| {
            let Limits { nominal_concurrency_shares, lendable_percent, .. } = limits;
            (*nominal_concurrency_shares, *lendable_percent, limits.borrowing_limit_percent)
        })
    }

    fn shape(&self) -> Shape {
        match &self.limited {
            None => Shape::Exempt,
            Some(limits) => match &limits.limit_response.queuing {
                None => Shape::Reject,
                Some(Queuing { queues, hand_size, queue_length_limit }) => {
                    Shape::Queue { queues: *queues, hand: *hand_size, length: *queue_length_limit }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method as HttpMethod;
    use serde_json::json;

    use super::*;
    use crate::query::Query;

    fn level(name: &str, shares: u32) -> Value {
        json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}") }, "spec": { "type": "Limited",
            "limited": { "nominalConcurrencyShares": shares, "lendablePercent": 50, "limitResponse": { "type": "Reject" } } } })
    }

    fn schema(name: &str, level: &str, precedence: i64, group: &str) -> Value {
        json!({ "metadata": { "name": name, "uid": "u" }, "spec": { "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence,
            "rules": [{ "subjects": [{ "kind": "Group", "group": { "name": group } }],
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }] } })
    }

    fn classified(config: &Config, groups: &[&str]) -> Option<String> {
        let info = RequestInfo::read(&HttpMethod::GET, "/version", &Query::default());
        let user = UserInfo::new("someone", groups);
        config.classify(&user, &info).map(|schema| schema.name.clone())
    }

    #[test]
    fn schemas_are_tried_by_precedence_then_name() {
        let schemas = [
            schema("b", "l", 7, "devs"),
            schema("a", "l", 7, "devs"),
            schema("z", "l", 1, "ops"),
            schema("catch-all", "l", 10_000, "nobody"),
            schema("dangling", "missing", 1, "devs"),
        ];
        let config = Config::read(&Config::default(), &schemas, &[level("l", 1)], 10);
        assert_eq!(classified(&config, &["devs"]).as_deref(), Some("a"));
        assert_eq!(classified(&config, &["devs", "ops"]).as_deref(), Some("z"));
        assert_eq!(classified(&config, &[]).as_deref(), Some("catch-all"));
    }

    #[test]
    fn seats_are_shared_in_proportion_and_rounded_up() {
        let levels = [level("one", 1), level("two", 2)];
        let config = Config::read(&Config::default(), &[], &levels, 100);
        let of = |name: &str| &config.levels[name];
        assert_eq!((of("one").nominal, of("two").nominal), (34, 67));
        assert_eq!((of("one").min, of("one").max), (17, 100));
    }

    #[test]
    fn a_level_is_the_same_under_a_new_configuration() {
        let before = Config::read(&Config::default(), &[], &[level("l", 1)], 10);
        let after = Config::read(&before, &[], &[level("l", 5)], 10);
        assert!(Arc::ptr_eq(&before.levels["l"].level, &after.levels["l"].level));
    }
}
