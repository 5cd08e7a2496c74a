//! What the name server was asked and has answered, as counters.
//!
//! Queries and responses -> Prometheus text under CoreDNS's names, so that dashboards made for it work. Counterpart: CoreDNS's
//! prometheus plugin. Invariant: counting takes no lock and waits for nothing.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::server::Transport;

/// Types that are counted by name; the rest is `other`, as with CoreDNS.
const TYPES: [(RecordType, &str); 9] = [
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::CNAME, "CNAME"),
    (RecordType::MX, "MX"),
    (RecordType::NS, "NS"),
    (RecordType::PTR, "PTR"),
    (RecordType::SOA, "SOA"),
    (RecordType::SRV, "SRV"),
    (RecordType::TXT, "TXT"),
];
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
/// By number; what has another number is none of a DNS server's answers.
const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
/// Upper bounds in microseconds, as CoreDNS's: 250 µs doubled.
const BUCKETS: usize = 16;
const FIRST_BUCKET: u64 = 250;

#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; TYPES.len() + 1]; PROTOCOLS.len()],
    responses: [AtomicU64; CODES.len()],
    /// How many answers took no longer than each bound, but longer than the one before; the last has no bound.
    durations: [AtomicU64; BUCKETS + 1],
    microseconds: AtomicU64,
}

impl Metrics {
    pub(crate) fn asked(&self, transport: Transport, kind: Option<RecordType>) {
        let known = TYPES.iter().position(|(known, _)| Some(*known) == kind);
        let protocol = usize::from(transport == Transport::Tcp);
        self.requests[protocol][known.unwrap_or(TYPES.len())].fetch_add(1, Relaxed);
    }

    /// Counts a response by its bytes.
    pub(crate) fn answered(&self, response: &[u8], took: Duration) {
        let code = response.get(3).map_or(CODES.len(), |flags| usize::from(flags & 0x0f));
        if let Some(count) = self.responses.get(code) {
            count.fetch_add(1, Relaxed);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS).find(|at| took <= FIRST_BUCKET << at).unwrap_or(BUCKETS);
        self.durations[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(took, Relaxed);
    }

    /// Everything, in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("text can always be added to");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        const WHERE: &str = r#"server="dns://:53",view="",zone=".""#;
        header(out, "coredns_dns_requests_total", "counter", "Queries by protocol and type.")?;
        let names = TYPES.iter().map(|(_, name)| *name).chain(["other"]);
        for (protocol, counts) in PROTOCOLS.iter().zip(&self.requests) {
            for (kind, count) in names.clone().zip(counts).filter(|(_, count)| seen(count)) {
                let count = count.load(Relaxed);
                writeln!(
                    out,
                    r#"coredns_dns_requests_total{{family="1",proto="{protocol}",{WHERE},type="{kind}"}} {count}"#
                )?;
            }
        }
        header(out, "coredns_dns_responses_total", "counter", "Responses by their code.")?;
        for (code, count) in CODES.iter().zip(&self.responses).filter(|(_, count)| seen(count)) {
            let count = count.load(Relaxed);
            writeln!(out, r#"coredns_dns_responses_total{{rcode="{code}",{WHERE}}} {count}"#)?;
        }
        let name = "coredns_dns_request_duration_seconds";
        header(out, name, "histogram", "How long queries took to answer.")?;
        let mut so_far = 0;
        for (at, count) in self.durations.iter().enumerate() {
            so_far += count.load(Relaxed);
            let bound = match at {
                BUCKETS => "+Inf".to_owned(),
                at => seconds(FIRST_BUCKET << at).to_string(),
            };
            writeln!(out, r#"{name}_bucket{{{WHERE},le="{bound}"}} {so_far}"#)?;
        }
        writeln!(out, "{name}_sum{{{WHERE}}} {}", seconds(self.microseconds.load(Relaxed)))?;
        writeln!(out, "{name}_count{{{WHERE}}} {so_far}")
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn seen(count: &AtomicU64) -> bool {
    count.load(Relaxed) > 0
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_responses_are_counted_under_corednss_names() {
        let metrics = Metrics::default();
        metrics.asked(Transport::Udp, Some(RecordType::A));
        metrics.asked(Transport::Udp, Some(RecordType::A));
        metrics.asked(Transport::Tcp, Some(RecordType::CAA));
        metrics.answered(&[0, 0, 0x81, 0x80], Duration::from_micros(100));
        metrics.answered(&[0, 0, 0x81, 0x83], Duration::from_millis(1));
        let text = metrics.text();
        for line in [
            r#"coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",view="",zone=".",type="A"} 2"#,
            r#"coredns_dns_requests_total{family="1",proto="tcp",server="dns://:53",view="",zone=".",type="other"} 1"#,
            r#"coredns_dns_responses_total{rcode="NXDOMAIN",server="dns://:53",view="",zone="."} 1"#,
            r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone=".",le="0.00025"} 1"#,
            r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone=".",le="+Inf"} 2"#,
            r#"coredns_dns_request_duration_seconds_sum{server="dns://:53",view="",zone="."} 0.0011"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\nin\n{text}");
        }
        assert!(!text.contains("SERVFAIL"), "what never happened is not told of");
    }
}
