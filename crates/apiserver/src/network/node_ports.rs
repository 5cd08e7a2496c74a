//! Node ports: the ones a Service asks for, or free ones at random, and one to check a node's health at.
//!
//! Counterparts: `initNodePorts`, `updateNodePorts`, `allocHealthCheckNodePort`.

use std::collections::HashMap;

use serde_json::Value;
use skiff_api::field::Path;
use skiff_api::{Reason, Status};

use super::{
    Allocation, Claim, ServiceNetwork, draws_node_ports, fault, has_health_check, has_node_ports,
    node_port, ports_mut, random,
};

pub fn assign(
    network: &ServiceNetwork,
    service: &mut Value,
    old: Option<&Value>,
    allocation: &mut Allocation<'_>,
) -> Result<(), Status> {
    match old {
        _ if !has_node_ports(service) => {}
        None => network.assign_ports(service, allocation)?,
        Some(_) => network.change_ports(service, allocation)?,
    }
    if has_health_check(service) && !old.is_some_and(has_health_check) {
        network.assign_health_check(service, allocation)?;
    }
    Ok(())
}

impl ServiceNetwork {
    /// Each port of a changed Service gets its own; a number that is asked for may serve several protocols.
    fn change_ports(
        &self,
        service: &mut Value,
        allocation: &mut Allocation<'_>,
    ) -> Result<(), Status> {
        let draws = draws_node_ports(service);
        let mut had: Vec<(String, i64)> = Vec::new();
        let ports: Vec<Value> = ports_mut(service).map(|port| port.clone()).collect();
        for (index, port) in ports.iter().enumerate() {
            let chosen = match node_port(port) {
                0 if !draws => continue,
                0 => self.draw_port(allocation).ok_or_else(full)?,
                asked if had.iter().any(|(_, number)| *number == asked) => asked,
                asked => self.request(service, index, asked, allocation)?,
            };
            let named = (port["protocol"].as_str().unwrap_or_default().to_owned(), chosen);
            if had.contains(&named) {
                let why = format!("duplicate nodePort: {{{} {chosen}}}", named.0);
                return Err(Status::new(500, Reason::Unknown, why));
            }
            had.push(named);
            if let Some(port) = ports_mut(service).nth(index) {
                port["nodePort"] = chosen.into();
            }
        }
        Ok(())
    }

    /// Ports of one number share a node's port, whatever their protocols; each is asked for once.
    fn assign_ports(
        &self,
        service: &mut Value,
        allocation: &mut Allocation<'_>,
    ) -> Result<(), Status> {
        let draws = draws_node_ports(service);
        let mut shared: HashMap<i64, i64> = HashMap::new();
        let ports: Vec<Value> = ports_mut(service).map(|port| port.clone()).collect();
        for (index, port) in ports.iter().enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let asked = node_port(port);
            if asked == 0 && !draws {
                continue;
            }
            let of_same = ports.iter().filter(|other| other["port"] == port["port"]);
            let requested = of_same.map(node_port).find(|asked| *asked != 0).unwrap_or(0);
            let chosen = match shared.get(&number).copied() {
                Some(chosen) if asked == 0 || asked == chosen => chosen,
                Some(_) => self.request(service, index, asked, allocation)?,
                None if requested != 0 => self.request(service, index, requested, allocation)?,
                None => self.draw_port(allocation).ok_or_else(full)?,
            };
            shared.entry(number).or_insert(chosen);
            if let Some(port) = ports_mut(service).nth(index) {
                port["nodePort"] = chosen.into();
            }
        }
        Ok(())
    }

    fn request(
        &self,
        service: &Value,
        index: usize,
        asked: i64,
        allocation: &mut Allocation<'_>,
    ) -> Result<i64, Status> {
        let spec = Path::new("spec");
        let ports = spec.child("ports");
        let claimed = self.claim_port(asked, allocation);
        claimed.map_err(|why| fault(service, &ports.index(index).child("nodePort"), asked, why))
    }

    fn assign_health_check(
        &self,
        service: &mut Value,
        allocation: &mut Allocation<'_>,
    ) -> Result<(), Status> {
        let asked = service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0);
        let chosen = match asked {
            0 => self.draw_port(allocation).ok_or_else(full)?,
            asked => self.claim_port(asked, allocation).map_err(|why| {
                let what = format!("requested HealthCheck NodePort {asked}");
                Status::internal(format!("failed to allocate {what}: {why}"))
            })?,
        };
        service["spec"]["healthCheckNodePort"] = chosen.into();
        Ok(())
    }

    fn claim_port(&self, asked: i64, allocation: &mut Allocation<'_>) -> Result<i64, String> {
        let inside = |port: &u16| allocation.dry_run || self.node_ports.contains(port);
        let port = u16::try_from(asked).ok().filter(inside).ok_or_else(|| {
            let (from, to) = (self.node_ports.start(), self.node_ports.end());
            format!(
                "provided port is not in the valid range. The range of valid ports is {from}-{to}"
            )
        })?;
        let twice = allocation.new.contains(&Claim::NodePort(port));
        match !twice && self.claim(Claim::NodePort(port), allocation) {
            true => Ok(asked),
            false => Err("provided port is already allocated".to_owned()),
        }
    }

    fn draw_port(&self, allocation: &mut Allocation<'_>) -> Option<i64> {
        let (from, to) = (u32::from(*self.node_ports.start()), u32::from(*self.node_ports.end()));
        let size = to - from + 1;
        let start = random() % size;
        let numbers = (0..size).filter_map(|i| u16::try_from(from + (start + i) % size).ok());
        let claims = numbers.map(Claim::NodePort);
        // A port that the Service had is another port's, or about to be given back.
        let others: Vec<Claim> =
            claims.filter(|claim| !allocation.before.contains(claim)).collect();
        match others.into_iter().find(|claim| self.claim(*claim, allocation))? {
            Claim::NodePort(number) => Some(i64::from(number)),
            Claim::Address(_) => None,
        }
    }
}

fn full() -> Status {
    Status::internal("failed to allocate a nodePort: range is full")
}
