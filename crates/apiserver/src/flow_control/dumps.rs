//! `/debug/api_priority_and_fairness/*`: what every level, queue and waiting request is doing, as tables.
//!
//! Counterpart: `apf_controller_debug.go`. Differs from upstream: requests that execute are counted, not listed, and times
//! in queues are in seats of work, not seat-seconds.

use std::sync::atomic::Ordering::Relaxed;

use super::FlowControl;
use super::config::Config;
use super::counts::Rejection;
use super::level::{LevelPicture, Shape};
use crate::metrics::exposition::{Exposition, escaped};

/// The table of that name.
pub fn dump(flow_control: &FlowControl, name: &str) -> Option<String> {
    let config = flow_control.config.load();
    let rows = match name {
        "dump_priority_levels" => levels(&config),
        "dump_queues" => queues(&config),
        "dump_requests" => requests(&config),
        _ => return None,
    };
    Some(aligned(&rows))
}

type Rows = Vec<Vec<String>>;

fn header(columns: &[&str]) -> Rows {
    vec![columns.iter().map(|column| (*column).to_owned()).collect()]
}

fn pictures(config: &Config) -> impl Iterator<Item = LevelPicture> {
    config.levels.values().map(|share| share.level.picture())
}

fn levels(config: &Config) -> Rows {
    let mut rows = header(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ]);
    for level in pictures(config) {
        let of = |count: fn(&super::counts::FlowCounts) -> u64| -> String {
            let flows = config.schemas.iter().filter(|schema| schema.level.name == level.name);
            flows.map(|schema| count(&schema.counts)).sum::<u64>().to_string()
        };
        let active = level.queues.iter().filter(|queue| !queue.waiting.is_empty()).count();
        let idle = !level.exempt && level.executing == 0 && level.waiting == 0;
        rows.push(vec![
            level.name.clone(),
            active.to_string(),
            idle.to_string(),
            "false".to_owned(),
            level.waiting.to_string(),
            level.executing.to_string(),
            of(|counts| counts.dispatched.load(Relaxed)),
            of(|counts| {
                counts.rejected(Rejection::QueueFull) + counts.rejected(Rejection::ConcurrencyLimit)
            }),
            of(|counts| counts.rejected(Rejection::TimeOut)),
            of(|counts| counts.rejected(Rejection::Cancelled)),
        ]);
    }
    rows
}

fn queues(config: &Config) -> Rows {
    let mut rows = header(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ]);
    for level in pictures(config) {
        for (index, queue) in level.queues.iter().enumerate() {
            let seats: usize = queue.waiting.iter().map(|waiter| waiter.seats).sum();
            rows.push(vec![
                level.name.clone(),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.to_string(),
                queue.in_use.to_string(),
                format!("{:.8}ss", queue.time),
                seats.to_string(),
                seats.to_string(),
                format!("{:.8}ss", seats as f64),
            ]);
        }
    }
    rows
}

fn requests(config: &Config) -> Rows {
    let mut rows = header(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    for level in pictures(config) {
        for (index, queue) in level.queues.iter().enumerate() {
            for (place, waiter) in queue.waiting.iter().enumerate() {
                let arrived = jiff::Timestamp::now() - waiter.waited;
                rows.push(vec![
                    level.name.clone(),
                    waiter.schema.clone(),
                    index.to_string(),
                    place.to_string(),
                    waiter.distinguisher.clone(),
                    arrived.to_string(),
                    waiter.seats.to_string(),
                    "0".to_owned(),
                    "0s".to_owned(),
                    "0001-01-01T00:00:00Z".to_owned(),
                ]);
            }
        }
    }
    rows
}

/// Cells end in a comma and begin under their column's title.
fn aligned(rows: &Rows) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (cell, width) in row[..columns - 1].iter().zip(&widths) {
            out.push_str(&format!("{:<width$}", format!("{cell},")));
        }
        out.push_str(&row[columns - 1]);
        out.push('\n');
    }
    out
}

/// Name, what it says, and where it is read.
type Family = (&'static str, &'static str, fn(&LevelPicture) -> usize);

/// The families that are told apart by level.
pub fn expose(config: &Config, out: &mut Exposition) {
    const FAMILIES: &[Family] = &[
        (
            "apiserver_flowcontrol_current_limit_seats",
            "[ALPHA] current derived number of execution seats available to each priority level",
            |level| level.limit,
        ),
        (
            "apiserver_flowcontrol_current_executing_seats",
            "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests",
            |level| level.in_use,
        ),
        (
            "apiserver_flowcontrol_current_inqueue_seats",
            "[ALPHA] Number of seats currently pending in queues",
            |level| level.waiting_seats,
        ),
    ];
    let pictures: Vec<LevelPicture> = pictures(config).collect();
    for (name, help, value) in FAMILIES {
        out.family(name, "gauge", help);
        for level in &pictures {
            out.sample(name, &format!("priority_level=\"{}\"", escaped(&level.name)), value(level));
        }
    }
    let name = "apiserver_flowcontrol_nominal_limit_seats";
    out.family(
        name,
        "gauge",
        "[BETA] Nominal number of execution seats configured for each priority level",
    );
    for share in config.levels.values().filter(|share| share.shape != Shape::Exempt) {
        out.sample(
            name,
            &format!("priority_level=\"{}\"", escaped(&share.level.name)),
            share.nominal,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_have_upstreams_columns() {
        let flow_control = FlowControl::new(600);
        let text = dump(&flow_control, "dump_priority_levels").expect("a table");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with(
                "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests,"
            )
        );
        assert!(lines[1].starts_with(
            "catch-all,         0,            true,   false,       0,               0,"
        ));
        assert_eq!(lines.len(), 9);
        assert!(
            dump(&flow_control, "dump_queues")
                .expect("a table")
                .contains("workload-low,      127,")
        );
        assert!(dump(&flow_control, "dump_nothing").is_none());
    }
}
