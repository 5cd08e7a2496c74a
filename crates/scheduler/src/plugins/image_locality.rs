//! Prefers nodes that already have the pod's images, weighted by size and by how widespread each image is.

use std::collections::HashMap;

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, MAX_SCORE, Plugin, Reason};
use crate::pod_info::PodInfo;

const MEBIBYTE: i64 = 1024 * 1024;
/// Sums below this are not worth a point.
const LEAST: i64 = 23 * MEBIBYTE;
/// Per container, sums above this are worth all points.
const MOST_PER_CONTAINER: i64 = 1000 * MEBIBYTE;

pub struct ImageLocality;

struct Opinion {
    /// Normalised image name to the share of nodes that have it, in thousandths.
    spread: HashMap<String, i64>,
    most: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let all = cluster.nodes();
        let mut spread = HashMap::new();
        for image in pod.images.iter().map(|image| normalized(image)) {
            let having = all.iter().filter(|node| node.images.contains_key(&image)).count();
            if having > 0 {
                let share = having * 1000 / all.len();
                spread.insert(image, i64::try_from(share).unwrap_or(1000));
            }
        }
        let containers = i64::try_from(pod.images.len()).unwrap_or(1).max(1);
        let most = MOST_PER_CONTAINER * containers;
        Ok((!spread.is_empty()).then(|| Box::new(Opinion { spread, most }) as Box<dyn Judge>))
    }
}

impl Judge for Opinion {
    fn score(&self, node: &NodeInfo) -> i64 {
        let present = self
            .spread
            .iter()
            .filter_map(|(image, share)| Some(node.images.get(image)? * share / 1000));
        let sum = present.sum::<i64>().clamp(LEAST, self.most);
        MAX_SCORE * (sum - LEAST) / (self.most - LEAST)
    }
}

/// Nodes list images with a tag or digest.
fn normalized(image: &str) -> String {
    let after_path = image.rsplit('/').next().unwrap_or(image);
    if after_path.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn the_node_with_the_image_wins() {
        let with = "{metadata: {name: with}, status: {images: [{names: ['registry:5000/app:latest'], sizeBytes: 900000000}]}}";
        let nodes = cluster(&["{metadata: {name: without}}", with], &[]);
        let pod = "{spec: {containers: [{name: c, image: 'registry:5000/app'}]}}";
        assert_eq!(choose(&[&ImageLocality], &nodes, pod).unwrap(), "with");
    }
}
