//! Memory that is held until told otherwise, to meet a limit with.

use std::sync::Mutex;

use hyper::{Method, StatusCode};
use serde_json::json;

use crate::http::{Answer, Call};

const PAGE: usize = 4096;

#[derive(Default)]
pub struct Memory(Mutex<Vec<Vec<u8>>>);

impl Memory {
    pub fn api(&self, call: &Call, steps: &[&str]) -> Answer {
        match (&call.method, steps) {
            (&Method::GET, []) => Answer::json(&self.status()),
            (&Method::POST, ["alloc"]) => match call.parameter("size").map(str::parse) {
                Some(Ok(size)) => self.allocate(size),
                _ => Answer::error(StatusCode::BAD_REQUEST, "size must be a number of bytes"),
            },
            (&Method::POST, ["clear"]) => {
                self.0.lock().expect("no holder panics").clear();
                Answer::empty(StatusCode::OK)
            }
            _ => Answer::error(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    /// Touches every page: memory that was never written to is not resident.
    fn allocate(&self, size: usize) -> Answer {
        let mut block = Vec::new();
        if block.try_reserve_exact(size).is_err() {
            return Answer::error(StatusCode::INSUFFICIENT_STORAGE, "the allocator refused");
        }
        block.resize(size, 0);
        block.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        self.0.lock().expect("no holder panics").push(block);
        Answer::empty(StatusCode::OK)
    }

    pub fn status(&self) -> serde_json::Value {
        let held: usize = self.0.lock().expect("no holder panics").iter().map(Vec::len).sum();
        json!({ "held": held, "resident": resident() })
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * PAGE as u64
}
