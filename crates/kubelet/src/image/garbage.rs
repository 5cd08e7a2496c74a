//! Removes images nobody uses: when the disk fills, or when they have been idle for too long.
//!
//! Consumes what the runtime has and runs, and how full the disk is, decides which images go, longest
//! unused first. Counterpart: `pkg/kubelet/images/image_gc_manager.go`.
//! Invariant: an image that a container, running or not, was made from stays; so does one younger
//! than the minimal age.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use skiff_runtime::{ContainerStatus, FilesystemUsage, Image};
use tokio::sync::Mutex;

use crate::{config::ImageGarbage, context::NodeContext, events::EventType};

const LOOK_EVERY: Duration = Duration::from_secs(300);

/// What is remembered of an image that is here.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    first: Instant,
    last_used: Option<Instant>,
}

/// What a look decided.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// Ids, in the order in which they go.
    doomed: Vec<String>,
    /// What became free, if that is less than was wanted.
    short: Option<u64>,
}

/// What is known of the images here. Shared; a collection holds it to its end, so that two never overlap.
pub struct ImageCollector {
    collector: Mutex<Collector>,
    began: Instant,
}

#[derive(Default)]
struct Collector {
    seen: HashMap<String, Seen>,
}

// === impl ImageCollector ===

impl Default for ImageCollector {
    fn default() -> Self {
        ImageCollector { collector: Mutex::default(), began: Instant::now() }
    }
}

/// Removes every image that nobody uses and that is not too young, unless images are to stay whatever happens.
pub async fn remove_unused(ctx: &NodeContext) -> Result<(), String> {
    let terms = ImageGarbage { low_threshold: 0, high_threshold: 0, ..ctx.config.image_garbage };
    if ctx.config.image_garbage.high_threshold >= 100 {
        return Ok(());
    }
    collect(ctx, &terms).await.map(drop)
}

/// Runs for ever; not at all where neither fullness nor age ends an image.
pub async fn run(ctx: Arc<NodeContext>) {
    let terms = ctx.config.image_garbage;
    if terms.high_threshold >= 100 && terms.max_age.is_zero() {
        return;
    }
    let mut failed_before = false;
    loop {
        let result = match collect(&ctx, &terms).await {
            Ok(Some(shortage)) => {
                let name = &ctx.config.node_name;
                let reason = "FreeDiskSpaceFailed";
                ctx.recorder.node(name, EventType::Warning, reason, shortage.clone());
                Err(shortage)
            }
            result => result.map(drop),
        };
        if let Err(message) = &result {
            tracing::warn!(message, "images not collected");
            if failed_before {
                let name = &ctx.config.node_name;
                ctx.recorder.node(name, EventType::Warning, "ImageGCFailed", message.clone());
            }
        }
        failed_before = result.is_err();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Removes what the terms say; a message if that freed less than they want.
async fn collect(ctx: &NodeContext, terms: &ImageGarbage) -> Result<Option<String>, String> {
    let mut collector = ctx.images.collector.lock().await;
    collector.collect(ctx, terms, ctx.images.began).await
}

/// What a container was made from, and what it mounts.
fn images_of(container: ContainerStatus) -> impl Iterator<Item = String> {
    let mounted = container.mounts.into_iter().filter_map(|mount| mount.image);
    std::iter::once(container.image_id).chain(mounted.map(|image| image.id))
}

// === impl Collector ===

impl Collector {
    async fn collect(
        &mut self,
        ctx: &NodeContext,
        terms: &ImageGarbage,
        began: Instant,
    ) -> Result<Option<String>, String> {
        let failed = |error: skiff_runtime::Error| error.to_string();
        let images = ctx.runtime.list_images().await.map_err(failed)?;
        let containers = ctx.runtime.list_containers().await.map_err(failed)?;
        let usage = ctx.runtime.image_fs_info().await.map_err(failed)?;
        let now = Instant::now();
        let used = containers.into_iter().flat_map(images_of).collect();
        self.notice(&images, &used, now);
        if usage.capacity_bytes == 0 {
            let message = "invalid capacity 0 on image filesystem".to_owned();
            let name = &ctx.config.node_name;
            ctx.recorder.node(name, EventType::Warning, "InvalidDiskCapacity", message.clone());
            return Err(message);
        }
        let look = Look { terms, began, now, used: &used, usage: &usage };
        let verdict = self.judge(&images, &look);
        for id in &verdict.doomed {
            tracing::info!(id, "removing an unused image");
            ctx.runtime.remove_image(id).await.map_err(failed)?;
            self.seen.remove(id);
        }
        Ok(verdict.short.map(|freed| {
            format!(
                "Insufficient free disk space on the node's image filesystem ({}% of {} used). \
                 Failed to free sufficient space by deleting unused images (freed {freed} bytes). \
                 Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
                look.used_percent(),
                binary_size(usage.capacity_bytes)
            )
        }))
    }

    fn notice(&mut self, images: &[Image], used: &BTreeSet<String>, now: Instant) {
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let fresh = Seen { first: now, last_used: None };
            let seen = self.seen.entry(image.id.clone()).or_insert(fresh);
            if used.contains(&image.id) {
                seen.last_used = Some(now);
            }
        }
    }

    fn judge(&self, images: &[Image], look: &Look<'_>) -> Verdict {
        let mut idle: Vec<(&Image, Seen)> = images
            .iter()
            .filter(|image| !image.pinned && !look.used.contains(&image.id))
            .filter_map(|image| Some((image, *self.seen.get(&image.id)?)))
            .collect();
        idle.sort_by_key(|(_, seen)| (seen.last_used, seen.first));
        let (old, rest): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|(_, seen)| look.is_too_old(seen));
        let mut verdict = Verdict {
            doomed: old.iter().map(|(image, _)| image.id.clone()).collect(),
            short: None,
        };
        let mut freed: u64 = old.iter().map(|(image, _)| image.size).sum();
        let Some(wanted) = look.wanted() else { return verdict };
        for (image, seen) in rest {
            if freed >= wanted {
                break;
            }
            if look.now.duration_since(seen.first) >= look.terms.min_age {
                verdict.doomed.push(image.id.clone());
                freed += image.size;
            }
        }
        verdict.short = (freed < wanted).then_some(freed);
        verdict
    }
}

/// What one look goes by.
struct Look<'a> {
    terms: &'a ImageGarbage,
    began: Instant,
    now: Instant,
    used: &'a BTreeSet<String>,
    usage: &'a FilesystemUsage,
}

impl Look<'_> {
    /// Bytes to free, if the disk is fuller than allowed.
    fn wanted(&self) -> Option<u64> {
        let capacity = self.usage.capacity_bytes;
        let available = self.usage.available_bytes.min(capacity);
        let target = capacity / 100 * u64::from(100 - self.terms.low_threshold);
        (self.used_percent() >= u64::from(self.terms.high_threshold)
            && self.terms.high_threshold < 100)
            .then(|| target.saturating_sub(available))
    }

    fn used_percent(&self) -> u64 {
        let capacity = self.usage.capacity_bytes;
        100 - self.usage.available_bytes.min(capacity) * 100 / capacity
    }

    /// Nothing is old before this process has watched for as long: it does not know better.
    fn is_too_old(&self, seen: &Seen) -> bool {
        let max = self.terms.max_age;
        let idle_since = seen.last_used.unwrap_or(seen.first);
        !max.is_zero()
            && self.now.duration_since(self.began) > max
            && self.now.duration_since(idle_since) > max
    }
}

/// `1.5 GiB`, as upstream's event has it.
fn binary_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn image(id: &str, megabytes: u64) -> Image {
        Image { id: id.to_owned(), size: megabytes * MB, ..Image::default() }
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    /// `a` was used until lately, `b` never, `c` long ago, `d` is young and `e` is in use; `f` is
    /// pinned.
    fn judge(available: u64, max_age: Duration) -> Verdict {
        let began = Instant::now();
        let images: Vec<Image> = ["a", "b", "c", "d", "e"].map(|id| image(id, 10)).into();
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let mut collector = Collector::default();
        let mut pinned = image("f", 10);
        pinned.pinned = true;
        let mut older = images[..3].to_vec();
        older.extend([images[4].clone(), pinned.clone()]);
        collector.notice(&older, &used(&["a", "c", "e"]), began);
        collector.notice(&older, &used(&["a", "e"]), began + minutes(50));
        let now = began + minutes(60);
        let mut all = images;
        all.push(pinned);
        collector.notice(&all, &used(&["e"]), now);
        let usage = FilesystemUsage {
            mountpoint: "/".into(),
            used_bytes: 0,
            inodes_used: 0,
            capacity_bytes: 1000 * MB,
            available_bytes: available * MB,
            inodes: 0,
            inodes_free: 0,
        };
        let terms =
            ImageGarbage { high_threshold: 85, low_threshold: 80, min_age: minutes(2), max_age };
        let look = Look { terms: &terms, began, now, used: &used(&["e"]), usage: &usage };
        collector.judge(&all, &look)
    }

    fn doomed(verdict: &Verdict) -> Vec<&str> {
        verdict.doomed.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_disk_with_room_keeps_everything() {
        assert_eq!(judge(200, Duration::ZERO), Verdict::default());
        assert_eq!(judge(160, Duration::ZERO), Verdict::default(), "below the high threshold");
    }

    #[test]
    fn a_full_disk_loses_the_longest_unused_first_and_no_more_than_needed() {
        // Fuller than 85 %: 80 % is 200 free.
        let verdict = judge(150, Duration::ZERO);
        assert_eq!(doomed(&verdict), ["b", "c", "a"]);
        assert_eq!(verdict.short, Some(30 * MB));
    }

    #[test]
    fn what_is_idle_for_longer_than_the_maximum_goes_although_there_is_room() {
        assert_eq!(doomed(&judge(500, minutes(30))), ["b", "c"]);
        assert_eq!(doomed(&judge(500, minutes(61))), [""; 0]);
    }
}
