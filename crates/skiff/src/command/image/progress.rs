//! How far layers are, on a terminal as one line that changes, elsewhere as a line per layer.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use skiff_runtime::{LayerProgress, LayerState};

use super::size;
use crate::node_socket::Progress;

pub struct Meter {
    verb: &'static str,
    image: String,
    layers: BTreeMap<String, LayerProgress>,
    terminal: bool,
}

// === impl Meter ===

impl Meter {
    pub fn new(verb: &'static str, image: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            eprintln!("{verb} {image}");
        }
        Meter { verb, image: image.to_owned(), layers: BTreeMap::new(), terminal }
    }

    pub fn tell(&mut self, step: Progress) {
        match step {
            Progress::Layer(layer) => {
                if !self.terminal
                    && matches!(layer.state, LayerState::Complete | LayerState::Exists)
                {
                    eprintln!(
                        "  {} {} {}",
                        short(&layer.digest),
                        word(layer.state),
                        size(layer.total)
                    );
                }
                self.layers.insert(layer.digest.clone(), layer);
                self.draw();
            }
            Progress::Step(line) => eprintln!("{line}"),
            Progress::Done(_) | Progress::Failed(_) => {}
        }
    }

    /// Takes the changing line away.
    pub fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn draw(&self) {
        if !self.terminal {
            return;
        }
        let ready = |layer: &&LayerProgress| {
            matches!(layer.state, LayerState::Complete | LayerState::Exists)
        };
        let (complete, all) = (self.layers.values().filter(ready).count(), self.layers.len());
        let through = |layer: &LayerProgress| match layer.state {
            LayerState::Waiting => 0,
            LayerState::Downloading | LayerState::Uploading => layer.done,
            LayerState::Exists | LayerState::Unpacking | LayerState::Complete => layer.total,
        };
        let done: u64 = self.layers.values().map(through).sum();
        let total: u64 = self.layers.values().map(|layer| layer.total).sum();
        let (verb, image) = (self.verb, &self.image);
        eprint!(
            "\r\x1b[K{verb} {image}: {complete}/{all} layers, {} of {}",
            size(done),
            size(total)
        );
        // A terminal that has gone is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Exists => "already there",
        _ => "complete",
    }
}

pub fn short(digest: &str) -> &str {
    let hex = digest.trim_start_matches("sha256:");
    hex.get(..12).unwrap_or(hex)
}
