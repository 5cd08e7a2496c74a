//! The recorded truth: requests and the answers a real v1.36 API server gave, replayed in process.
//!
//! `tests/reference/scenarios/<topic>/*.json` (described in FORMAT.md beside them) -> passed and failed steps per topic.
//! The test fails if a topic passes fewer steps than `tests/reference/baseline.json` says; `UPDATE_BASELINE=1` raises it.
//! `ONLY=topic/file SHOW=1 cargo test -p skiff-apiserver --test reference -- --nocapture` shows the differences.
//! Every file gets a server of its own, so files neither see nor wait for each other.

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod protobuf;
mod scenario;
mod scrub;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;

use scenario::Outcome;

/// How many files are replayed at once.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_answers_are_given() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference");
    let only = std::env::var("ONLY").unwrap_or_default();
    let files = scenario_files(&root.join("scenarios"), &only);
    assert!(!files.is_empty(), "no scenario matches");
    let played = futures::stream::iter(files).map(|(topic, path)| async move {
        let outcomes = tokio::spawn(play(path.clone())).await.expect("a scenario does not panic");
        (topic, path, outcomes)
    });
    let played: Vec<_> = played.buffer_unordered(AT_ONCE).collect().await;
    let mut passed: BTreeMap<String, usize> = BTreeMap::new();
    let mut total: BTreeMap<String, usize> = BTreeMap::new();
    for (topic, path, outcomes) in &played {
        show(path, outcomes);
        *total.entry(topic.clone()).or_default() += outcomes.len();
        *passed.entry(topic.clone()).or_default() +=
            outcomes.iter().filter(|outcome| outcome.differences.is_empty()).count();
    }
    for (topic, passed) in &passed {
        println!("{topic:<16} {passed:>5} of {}", total[topic]);
    }
    if only.is_empty() {
        compare_with_baseline(&root.join("baseline.json"), passed);
    }
}

/// Plays a scenario, and again when a port that was drawn at random was one of those that it asks for by number, which a
/// real server draws now and then as well.
async fn play(path: PathBuf) -> Vec<Outcome> {
    const TIMES: usize = 4;
    let drew_a_named_port = |outcomes: &[Outcome]| {
        outcomes
            .iter()
            .flat_map(|outcome| &outcome.differences)
            .any(|line| line.contains("<nodePort>"))
    };
    let mut outcomes = scenario::play(path.clone()).await;
    for _ in 1..TIMES {
        if !drew_a_named_port(&outcomes) {
            break;
        }
        outcomes = scenario::play(path.clone()).await;
    }
    outcomes
}

/// Topic and path of every scenario whose path contains `only`.
fn scenario_files(root: &Path, only: &str) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for topic in std::fs::read_dir(root).expect("the scenarios are there").flatten() {
        for file in std::fs::read_dir(topic.path()).expect("topics are folders").flatten() {
            if file.path().to_string_lossy().contains(only) {
                files.push((topic.file_name().to_string_lossy().into_owned(), file.path()));
            }
        }
    }
    files.sort();
    files
}

fn show(path: &Path, outcomes: &[Outcome]) {
    if std::env::var("SHOW").is_err() {
        return;
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.differences.is_empty()) {
        println!("FAIL {} [{}]", path.display(), outcome.step);
        outcome.differences.iter().take(8).for_each(|line| println!("   {line}"));
    }
}

/// The numbers only go up.
fn compare_with_baseline(path: &Path, passed: BTreeMap<String, usize>) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    let mut baseline: BTreeMap<String, usize> =
        serde_json::from_str(&text).expect("the baseline is a map of numbers");
    let worse: Vec<String> = passed
        .iter()
        .filter(|(topic, now)| baseline.get(*topic).is_some_and(|before| *now < before))
        .map(|(topic, now)| format!("{topic}: {now} pass, it were {}", baseline[topic]))
        .collect();
    if std::env::var("UPDATE_BASELINE").is_ok() {
        for (topic, now) in passed {
            let best = baseline.entry(topic).or_default();
            *best = now.max(*best);
        }
        let text = serde_json::to_string_pretty(&baseline).expect("a map of numbers");
        std::fs::write(path, text + "\n").expect("the baseline can be written");
    }
    assert!(worse.is_empty(), "fewer recorded answers are given than before: {worse:?}");
}
