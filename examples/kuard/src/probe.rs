//! A probe that can be told to fail.

use std::collections::VecDeque;
use std::sync::Mutex;

use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::http::{Answer, Call};

/// How many past probes are shown.
const HISTORY: usize = 20;

pub struct Probe {
    path: &'static str,
    state: Mutex<State>,
}

struct State {
    /// Probes still to fail; negative: all.
    fail_next: i64,
    next_id: u64,
    history: VecDeque<(u64, Timestamp, StatusCode)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    fail_next: i64,
}

impl Probe {
    pub fn new(path: &'static str, fail_next: i64) -> Probe {
        let state = State { fail_next, next_id: 1, history: VecDeque::new() };
        Probe { path, state: Mutex::new(state) }
    }

    /// What the prober gets.
    pub fn answer(&self) -> Answer {
        let mut state = self.state.lock().expect("no probe panics");
        let answer = match state.fail_next {
            0 => Answer::text("ok"),
            left if left > 0 => {
                state.fail_next -= 1;
                failed(format!("fail, {} left", state.fail_next))
            }
            _ => failed("fail, permanent".to_owned()),
        };
        let entry = (state.next_id, Timestamp::now(), answer.status);
        state.next_id += 1;
        state.history.push_front(entry);
        state.history.truncate(HISTORY);
        answer
    }

    /// GET tells, PUT `{"failNext": N}` orders.
    pub fn api(&self, call: &Call) -> Answer {
        if call.method == Method::PUT {
            match serde_json::from_slice::<Order>(&call.body) {
                Ok(order) => {
                    self.state.lock().expect("no probe panics").fail_next = order.fail_next
                }
                Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
            }
        }
        Answer::json(&self.status())
    }

    pub fn status(&self) -> serde_json::Value {
        let state = self.state.lock().expect("no probe panics");
        let now = Timestamp::now();
        let history = state.history.iter().map(|(id, when, code)| {
            let ago = now.as_second() - when.as_second();
            json!({ "id": id, "when": when, "relWhen": format!("{ago}s ago"), "code": code.as_u16() })
        });
        json!({
            "probePath": self.path,
            "failNext": state.fail_next,
            "history": history.collect::<Vec<_>>(),
        })
    }
}

fn failed(text: String) -> Answer {
    Answer { status: StatusCode::INTERNAL_SERVER_ERROR, ..Answer::text(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_failures_is_counted_down() {
        let probe = Probe::new("/ready", 2);
        let statuses: Vec<u16> = (0..3).map(|_| probe.answer().status.as_u16()).collect();
        assert_eq!(statuses, [500, 500, 200]);
        assert_eq!(Probe::new("/ready", -1).answer().status, 500);
    }
}
