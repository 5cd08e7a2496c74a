//! `/statusz` and `/flagz`: what runs and with which settings, for people.
//!
//! Counterpart: `component-base/zpages`. The text form only; its wording says that no program should read it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics;
use crate::server::Server;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
const PATHS: &[&str] =
    &["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

pub fn statusz() -> String {
    let started = metrics::process::start_time();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let up = now.saturating_sub(started);
    let began = jiff::Timestamp::from_second(started as i64).unwrap_or_default();
    page(
        "statusz",
        &[
            ("Started", began.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
            ("Up", format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60)),
            ("Binary version", env!("CARGO_PKG_VERSION").to_owned()),
            ("Emulation version", "1.36".to_owned()),
            ("Paths", PATHS.join(" ")),
        ]
        .map(|(name, value)| format!("{name}= {value}")),
    )
}

/// The settings that have a flag upstream, under its name.
pub fn flagz(server: &Server) -> String {
    let config = &server.config;
    let audit = config.audit.as_ref();
    let mut flags = vec![
        ("advertise-address", config.advertise_address.to_string()),
        ("allow-privileged", config.allow_privileged.to_string()),
        (
            "audit-log-path",
            audit.map_or_else(String::new, |audit| audit.log.path.display().to_string()),
        ),
        (
            "audit-policy-file",
            audit.map_or_else(String::new, |audit| audit.policy.display().to_string()),
        ),
        ("disable-admission-plugins", format!("[{}]", config.disable_admission_plugins.join(","))),
        ("enable-admission-plugins", format!("[{}]", config.enable_admission_plugins.join(","))),
        ("max-mutating-requests-inflight", config.max_mutating_in_flight.to_string()),
        ("max-requests-inflight", config.max_in_flight.to_string()),
        ("secure-port", config.port.to_string()),
        ("service-account-issuer", format!("[{}]", config.issuer)),
        ("service-cluster-ip-range", config.service_cidr.to_string()),
    ];
    flags.sort();
    let lines: Vec<String> = flags.iter().map(|(name, value)| format!("{name} {value}")).collect();
    page("flagz", &lines)
}

fn page(name: &str, lines: &[String]) -> String {
    format!("\napiserver {name}\n{WARNING}\n\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_page_says_since_when_and_which_version() {
        let text = statusz();
        assert!(text.starts_with("\napiserver statusz\nWarning: "), "{text}");
        for line in ["Started= ", "Up= ", "Emulation version= 1.36", "Paths= /flagz "] {
            assert!(text.lines().any(|have| have.starts_with(line)), "{line}: {text}");
        }
    }
}
