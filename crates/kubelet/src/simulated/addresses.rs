//! Addresses of simulated pods: nobody listens there, but no two pods have the same.
//!
//! From the range that is shared by carriers (RFC 6598): four million, and no neighbour of a real cluster.

use std::collections::HashSet;
use std::net::Ipv4Addr;

const FIRST: u32 = u32::from_be_bytes([100, 64, 0, 0]);
const COUNT: u32 = 1 << 22;

#[derive(Default)]
pub struct Addresses {
    used: HashSet<u32>,
    next: u32,
}

// === impl Addresses ===

impl Addresses {
    /// None when every address is taken.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        if self.used.len() >= COUNT as usize - 1 {
            return None;
        }
        loop {
            self.next = self.next % (COUNT - 1) + 1;
            if self.used.insert(self.next) {
                return Some(Ipv4Addr::from(FIRST + self.next));
            }
        }
    }

    /// A pod has it since before this process was started.
    pub fn keep(&mut self, address: &str) {
        self.used.extend(offset(address));
    }

    pub fn give_back(&mut self, address: &str) {
        if let Some(offset) = offset(address) {
            self.used.remove(&offset);
        }
    }
}

fn offset(address: &str) -> Option<u32> {
    let address: Ipv4Addr = address.parse().ok()?;
    u32::from(address).checked_sub(FIRST).filter(|offset| *offset < COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_not_given_again() {
        let mut addresses = Addresses::default();
        addresses.keep("100.64.0.2");
        let given: Vec<_> = (0..3).filter_map(|_| addresses.take()).collect();
        assert_eq!(
            given,
            ["100.64.0.1", "100.64.0.3", "100.64.0.4"].map(|a| a.parse::<Ipv4Addr>().unwrap())
        );
        addresses.give_back("100.64.0.3");
        addresses.give_back("10.0.0.1");
        assert_eq!(addresses.used.len(), 3);
    }
}
