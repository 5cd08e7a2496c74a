//! One line per measurement.

use std::time::Duration;

use super::cpu::Spent;
use super::fanout::Fanout;
use super::rates::Rate;
use super::scheduling::Scheduled;

pub fn rate(what: &str, rate: &Rate) {
    let per_second = rate.done as f64 / rate.took.as_secs_f64();
    let (p50, p99) = percentiles(rate.latencies.clone());
    println!("{what:26} {per_second:>10.0} /s   p50 {p50:>8.2?}   p99 {p99:>8.2?}");
    cpu(&rate.cpu, "request", rate.done);
}

pub fn spread(what: &str, durations: Vec<Duration>) {
    let count = durations.len();
    let (p50, p99) = percentiles(durations);
    println!("{what:26} {count:>10} times   p50 {p50:>8.2?}   p99 {p99:>8.2?}");
}

/// Durations since one beginning: what counts is when the last was through.
pub fn all(what: &str, durations: Vec<Duration>) {
    let last = durations.iter().max().copied().unwrap_or_default();
    let (p50, _) = percentiles(durations);
    println!("{what:26} all after {last:>8.2?}   half after {p50:>8.2?}");
}

pub fn fanout(fanout: &Fanout) {
    let Fanout { watchers, written, took, delays, cpu: spent } = fanout;
    let what = format!("deliver to {watchers} watchers");
    let per_second = *written as f64 / took.as_secs_f64();
    let (p50, p99) = (delays.percentile(50.0), delays.percentile(99.0));
    println!("{what:26} {per_second:>10.0} /s   p50 {p50:>8.2?}   p99 {p99:>8.2?}");
    cpu(spent, "delivery", delays.total());
    let expected = written * *watchers as u64;
    if delays.total() < expected {
        println!("{:26} {:>10} of {expected} deliveries never came", "", expected - delays.total());
    }
}

/// Whose CPU time it was, where the server's is known.
fn cpu(spent: &Spent, what: &str, done: u64) {
    let Some(server) = spent.server else { return };
    let each = |time: Duration| time.div_f64(done.max(1) as f64);
    let (by_server, by_clients) = (each(server), each(spent.clients));
    println!("{:26} CPU per {what}: server {by_server:.2?}, clients {by_clients:.2?}", "");
}

pub fn scheduled(scheduled: &Scheduled) {
    let Scheduled { pods, created, bound } = scheduled;
    let per_second = *pods as f64 / bound.as_secs_f64();
    println!(
        "{:26} {per_second:>10.0} /s   created in {created:.2?}, bound in {bound:.2?}",
        "schedule pods"
    );
}

fn percentiles(mut durations: Vec<Duration>) -> (Duration, Duration) {
    durations.sort_unstable();
    let at = |percent: usize| {
        durations.get(durations.len() * percent / 100).or(durations.last()).copied()
    };
    (at(50).unwrap_or_default(), at(99).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_none() {
        let millis = |numbers: &[u64]| numbers.iter().map(|n| Duration::from_millis(*n)).collect();
        assert_eq!(percentiles(Vec::new()), (Duration::ZERO, Duration::ZERO));
        let hundred: Vec<u64> = (0..100).rev().collect();
        assert_eq!(
            percentiles(millis(&hundred)),
            (Duration::from_millis(50), Duration::from_millis(99))
        );
    }
}
