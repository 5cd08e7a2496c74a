//! Queues in memory, served to key generators in other pods.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use aws_lc_rs::rand;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::{Answer, Call};

#[derive(Default)]
pub struct Queues(Mutex<BTreeMap<String, Queue>>);

#[derive(Default)]
struct Queue {
    messages: VecDeque<Value>,
    enqueued: u64,
    dequeued: u64,
    drained: u64,
}

impl Queues {
    pub fn api(&self, call: &Call, steps: &[&str]) -> Answer {
        let mut queues = self.0.lock().expect("no queue panics");
        match (&call.method, steps) {
            (&Method::GET, [] | ["stats"]) => Answer::json(&stats(&queues)),
            (&Method::PUT, ["queues", name]) if queues.contains_key(*name) => {
                refused("already exists")
            }
            (&Method::PUT, ["queues", name]) => {
                queues.insert((*name).to_owned(), Queue::default());
                Answer::empty(StatusCode::OK)
            }
            (&Method::DELETE, ["queues", name]) => match queues.remove(*name) {
                Some(_) => Answer::empty(StatusCode::OK),
                None => refused("does not exist"),
            },
            (&Method::POST, ["queues", name, verb]) => match queues.get_mut(*name) {
                Some(queue) => queue.act(verb, call),
                None => refused("does not exist"),
            },
            _ => Answer::error(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    pub fn stats(&self) -> Value {
        stats(&self.0.lock().expect("no queue panics"))
    }
}

impl Queue {
    fn act(&mut self, verb: &str, call: &Call) -> Answer {
        match verb {
            "enqueue" => {
                let message = message(&String::from_utf8_lossy(&call.body));
                self.messages.push_back(message.clone());
                self.enqueued += 1;
                Answer::json(&message)
            }
            "dequeue" => match self.messages.pop_front() {
                Some(message) => {
                    self.dequeued += 1;
                    Answer::json(&message)
                }
                None => Answer::empty(StatusCode::NO_CONTENT),
            },
            "drain" => {
                self.drained += self.messages.len() as u64;
                self.messages.clear();
                Answer::empty(StatusCode::OK)
            }
            _ => Answer::error(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }
}

fn stats(queues: &BTreeMap<String, Queue>) -> Value {
    let each = queues.iter().map(|(name, queue)| {
        json!({
            "name": name,
            "depth": queue.messages.len(),
            "enqueued": queue.enqueued,
            "dequeued": queue.dequeued,
            "drained": queue.drained,
        })
    });
    json!({ "kind": "stats", "queues": each.collect::<Vec<_>>() })
}

fn message(body: &str) -> Value {
    let mut id = [0; 16];
    rand::fill(&mut id).expect("the system has randomness");
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "kind": "message", "id": id, "body": body, "creationTimestamp": Timestamp::now() })
}

fn refused(why: &str) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, why)
}
