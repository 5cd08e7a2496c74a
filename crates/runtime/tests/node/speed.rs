//! How long things take; run with `cargo test -p skiff-runtime --test node -- --ignored --nocapture
//! speed`.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::fixture::{on_node, script};

const ROUNDS: usize = 20;

#[test]
#[ignore = "a measurement: it prints, and judges only what no machine should exceed"]
fn pods_start_and_exec_quickly() {
    on_node(|node| async move {
        let (mut sandboxes, mut containers, mut execs, mut removals) =
            (vec![], vec![], vec![], vec![]);
        for round in 0..ROUNDS {
            let begin = Instant::now();
            let sandbox = node.sandbox(&format!("speed{round}")).await;
            sandboxes.push(begin.elapsed());

            let begin = Instant::now();
            let id = node.start(&sandbox, script("main", "sleep 1000")).await;
            containers.push(begin.elapsed());

            let begin = Instant::now();
            node.runtime.exec_sync(&id, &["true".to_owned()], None).await.unwrap();
            execs.push(begin.elapsed());
            if round == 0 {
                print_shim_memory(
                    &node.runtime.pod_sandbox_status(&sandbox).await.unwrap().netns.unwrap(),
                );
            }

            let begin = Instant::now();
            node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
            removals.push(begin.elapsed());
        }
        report("run_pod_sandbox", sandboxes);
        report("create + start container", containers);
        report("exec_sync true", execs);
        report("remove_pod_sandbox", removals);
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    eprintln!(
        "{what:26} min {:?}  p50 {:?}  max {:?}",
        times[0],
        times[ROUNDS / 2],
        times[ROUNDS - 1]
    );
    assert!(times[ROUNDS / 2] < Duration::from_secs(1), "{what} takes a second");
}

fn print_shim_memory(netns: &std::path::Path) {
    let rollup =
        fs::read_to_string(netns.parent().unwrap().with_file_name("smaps_rollup")).unwrap();
    for line in rollup.lines().filter(|line| line.starts_with("Rss") || line.starts_with("Private"))
    {
        eprintln!("shim {line}");
    }
}
