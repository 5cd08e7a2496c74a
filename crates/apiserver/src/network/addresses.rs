//! Cluster IPs: the one a Service asks for, or a free one at random.
//!
//! Counterparts: `allocClusterIPs`, `updateClusterIPs`, and the allocator behind them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::field::Path;

use super::{Allocation, Claim, NONE, ServiceNetwork, fault, is_external_name, random, texts};

/// The first addresses are left to explicit requests, so that random ones rarely collide with them.
const MAX_STATIC_BAND: u32 = 256;

/// An address is given once, and stays for as long as the Service has addresses: what a change makes of it is for
/// validation to judge.
pub fn assign(
    network: &ServiceNetwork,
    service: &mut Value,
    old: Option<&Value>,
    allocation: &mut Allocation<'_>,
) -> Result<(), Status> {
    let asked = texts(&service["spec"], "clusterIPs").into_iter().next().unwrap_or_default();
    if is_external_name(service) || asked == NONE || old.is_some_and(|old| !is_external_name(old)) {
        return Ok(());
    }
    let place = Path::new("spec");
    let place = place.child("clusterIPs");
    let address = match asked.as_str() {
        "" => network.draw_address(allocation).ok_or_else(|| {
            let why = "failed to allocate a serviceIP: range is full".to_owned();
            fault(service, &place, json!([]), why)
        })?,
        text => network.claim_address(text, allocation).map_err(|why| {
            let why = format!("failed to allocate IP {text}: {why}");
            fault(service, &place, json!([text]), why)
        })?,
    };
    service["spec"]["clusterIPs"] = json!([address]);
    service["spec"]["clusterIP"] = address.into();
    Ok(())
}

impl ServiceNetwork {
    fn claim_address(&self, text: &str, allocation: &mut Allocation<'_>) -> Result<String, String> {
        let inside = |address: &Ipv4Addr| {
            self.cidr.position(*address).is_some_and(|at| at != 0 && at != self.cidr.size() - 1)
        };
        let address = text.parse().ok().filter(inside).ok_or_else(|| match allocation.dry_run {
            true => format!(
                "the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
                self.cidr
            ),
            false => "the provided network does not match the current range".to_owned(),
        })?;
        match self.claim(Claim::Address(address), allocation) {
            true => Ok(text.to_owned()),
            false => Err("provided IP is already allocated".to_owned()),
        }
    }

    /// A free address at random, from the upper band first.
    fn draw_address(&self, allocation: &mut Allocation<'_>) -> Option<String> {
        let last = self.cidr.size() - 1;
        let band = (last / 16).clamp(1, MAX_STATIC_BAND).min(last - 1);
        let upper = last - band;
        let start = random() % upper.max(1);
        let candidates = (0..upper).map(|i| band + (start + i) % upper).chain(1..band);
        let mut addresses = candidates.map(|at| self.cidr.nth(at.max(1)));
        let free = addresses.find(|address| self.claim(Claim::Address(*address), allocation));
        free.map(|address| address.to_string())
    }
}
