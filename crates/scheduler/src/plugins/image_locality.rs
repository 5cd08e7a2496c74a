//! ImageLocality: nodes that have the pod's images already are better, the more so the larger the images.
//!
//! Counterpart: `plugins/imagelocality`. An image that few nodes have counts less, or the first node to pull it would
//! draw every later pod.

use std::collections::HashMap;

use crate::framework::{Cycle, MAX_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;

const MB: i64 = 1024 * 1024;
/// Below this there is nothing to save, above the maximum it no longer matters.
const MIN_SIZE: i64 = 23 * MB;
const MAX_SIZE_PER_CONTAINER: i64 = 1000 * MB;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let mut spread: HashMap<String, i64> = HashMap::new();
        for image in &cycle.pod.images {
            let image = full_name(image);
            let nodes = cycle.cache.nodes_with_image(&image);
            if nodes > 0 {
                spread.insert(image, nodes);
            }
        }
        if spread.is_empty() {
            return None;
        }
        let images = cycle.pod.images.iter().map(|image| full_name(image));
        let wanted = images.filter_map(|image| Some((spread.get(&image).copied()?, image)));
        Some(Box::new(PresentImages {
            wanted: wanted.map(|(nodes, image)| (image, nodes)).collect(),
            nodes: cycle.cache.len() as i64,
            containers: cycle.pod.images.len() as i64,
        }))
    }
}

struct PresentImages {
    /// With how many nodes have each.
    wanted: Vec<(String, i64)>,
    nodes: i64,
    containers: i64,
}

impl Score for PresentImages {
    fn score(&self, node: &NodeInfo) -> i64 {
        let present = self.wanted.iter().filter_map(|(image, nodes)| {
            let size = node.facts.images.get(image)?;
            Some(i128::from(*size) * i128::from(*nodes) / i128::from(self.nodes))
        });
        let saved = i64::try_from(present.sum::<i128>()).unwrap_or(i64::MAX);
        let most = MAX_SIZE_PER_CONTAINER * self.containers;
        MAX_SCORE * (saved.clamp(MIN_SIZE, most) - MIN_SIZE) / (most - MIN_SIZE)
    }
}

/// Without a tag or digest, `latest` is meant.
fn full_name(image: &str) -> String {
    let tagged = image.rfind(':').is_some_and(|colon| image.rfind('/').is_none_or(|s| s < colon));
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}
