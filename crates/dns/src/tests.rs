//! Questions and answers: Services and EndpointSlices as YAML in, the answer as text out.

use hickory_proto::rr::{Name, Record, RecordType};
use kube::runtime::watcher::Event;
use skiff_services::Catalog;

use crate::records::Recorder;
use crate::zone::{Answer, Zone};

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.50, clusterIPs: [10.96.0.50], ports: [{name: http, port: 80, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.42.0.9]}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: prod}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: prod, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.42.0.5], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.42.0.6], conditions: {ready: true}}
- {addresses: [10.42.0.7], hostname: db-2, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: early, namespace: prod}
spec: {clusterIP: None, publishNotReadyAddresses: true}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: early-1, namespace: prod, labels: {kubernetes.io/service-name: early}}
addressType: IPv4
ports: []
endpoints: [{addresses: [10.42.0.8], hostname: early-0, conditions: {ready: false}}]
---
apiVersion: v1
kind: Service
metadata: {name: dual, namespace: prod}
spec: {clusterIP: 10.96.0.60, clusterIPs: [10.96.0.60, 'fd00::60'], ports: []}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: default}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: inside, namespace: default}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: loop, namespace: default}
spec: {type: ExternalName, externalName: loop.default.svc.cluster.local}
";

fn origin() -> Name {
    Name::from_ascii("cluster.local.").unwrap()
}

fn feed(catalog: &mut Catalog<Recorder>, yaml: &str, deleted: bool) {
    for document in yaml.split("\n---") {
        let value: serde_json::Value = serde_saphyr::from_str(document).unwrap();
        if value["kind"] == "Service" {
            let object = serde_json::from_value(value).unwrap();
            catalog.service_event(if deleted {
                Event::Delete(object)
            } else {
                Event::Apply(object)
            });
        } else {
            let object = serde_json::from_value(value).unwrap();
            catalog.slice_event(if deleted { Event::Delete(object) } else { Event::Apply(object) });
        }
    }
}

fn update(zone: &mut Zone, catalog: &mut Catalog<Recorder>) {
    for (service, records) in catalog.take_changes() {
        zone.set(&service, records);
    }
}

fn zone() -> (Zone, Catalog<Recorder>) {
    let (mut zone, mut catalog) = (Zone::new(&origin()), Catalog::new(Recorder { zone: origin() }));
    feed(&mut catalog, OBJECTS, false);
    update(&mut zone, &mut catalog);
    (zone, catalog)
}

/// The answer as text: data in a fixed order, additionals after a bar.
fn ask(zone: &Zone, question: &str) -> String {
    let (kind, name) = question.split_once(' ').unwrap();
    let kind: RecordType = kind.parse().unwrap();
    let text = |records: Vec<Record>| {
        let mut data: Vec<_> = records.iter().map(|record| record.data.to_string()).collect();
        data.sort();
        data.join(", ")
    };
    match zone.answer(&Name::from_ascii(name).unwrap(), kind) {
        Answer::Records { answers, additionals } if additionals.is_empty() => text(answers),
        Answer::Records { answers, additionals } => {
            format!("{} | {}", text(answers), text(additionals))
        }
        Answer::Alias { answers, target } => format!("{} -> {target}", text(answers)),
        Answer::NoData => "NODATA".to_string(),
        Answer::NxDomain => "NXDOMAIN".to_string(),
        Answer::NotOurs => "elsewhere".to_string(),
    }
}

#[track_caller]
fn check(question: &str, expected: &str) {
    assert_eq!(ask(&zone().0, question), expected, "{question}");
}

#[test]
fn services_with_an_address() {
    check("A web.default.svc.cluster.local.", "10.96.0.50");
    check("A WEB.Default.SVC.cluster.LOCAL.", "10.96.0.50");
    check("AAAA web.default.svc.cluster.local.", "NODATA");
    check("A dual.prod.svc.cluster.local.", "10.96.0.60");
    check("AAAA dual.prod.svc.cluster.local.", "fd00::60");
    check(
        "SRV _http._tcp.web.default.svc.cluster.local.",
        "0 100 80 web.default.svc.cluster.local. | 10.96.0.50",
    );
    check(
        "SRV _dns._udp.web.default.svc.cluster.local.",
        "0 100 53 web.default.svc.cluster.local. | 10.96.0.50",
    );
    check("SRV _http._udp.web.default.svc.cluster.local.", "NXDOMAIN");
    check("A 10-42-0-9.web.default.svc.cluster.local.", "10.42.0.9");
}

#[test]
fn headless_services() {
    check("A db.prod.svc.cluster.local.", "10.42.0.5, 10.42.0.6");
    check("A db-0.db.prod.svc.cluster.local.", "10.42.0.5");
    check("A 10-42-0-6.db.prod.svc.cluster.local.", "10.42.0.6");
    check("A db-2.db.prod.svc.cluster.local.", "NXDOMAIN");
    check("A early.prod.svc.cluster.local.", "10.42.0.8");
    check("A early-0.early.prod.svc.cluster.local.", "10.42.0.8");
    check(
        "SRV _sql._tcp.db.prod.svc.cluster.local.",
        "0 50 5432 10-42-0-6.db.prod.svc.cluster.local., 0 50 5432 db-0.db.prod.svc.cluster.local. \
         | 10.42.0.5, 10.42.0.6",
    );
}

#[test]
fn names_that_exist_only_because_of_names_below_them() {
    for name in [
        "cluster.local.",
        "svc.cluster.local.",
        "prod.svc.cluster.local.",
        "_tcp.db.prod.svc.cluster.local.",
    ] {
        check(&format!("A {name}"), "NODATA");
    }
    for name in [
        "x.cluster.local.",
        "web.prod.svc.cluster.local.",
        "none.svc.cluster.local.",
        "x.web.default.svc.cluster.local.",
    ] {
        check(&format!("A {name}"), "NXDOMAIN");
    }
}

#[test]
fn reverse_names() {
    check("PTR 50.0.96.10.in-addr.arpa.", "web.default.svc.cluster.local.");
    check("PTR 5.0.42.10.in-addr.arpa.", "db-0.db.prod.svc.cluster.local.");
    check("PTR 9.0.42.10.in-addr.arpa.", "10-42-0-9.web.default.svc.cluster.local.");
    check("A 50.0.96.10.in-addr.arpa.", "NODATA");
    check("PTR 51.0.96.10.in-addr.arpa.", "elsewhere");
    check("PTR 10.in-addr.arpa.", "elsewhere");
}

#[test]
fn pods_by_their_address() {
    check("A 10-42-0-5.prod.pod.cluster.local.", "10.42.0.5");
    check("AAAA 10-42-0-5.prod.pod.cluster.local.", "NODATA");
    check("AAAA fd00--5.prod.pod.cluster.local.", "fd00::5");
    check("A ten-42-0-5.prod.pod.cluster.local.", "NXDOMAIN");
    check("A 10-42-0-5.pod.cluster.local.", "NXDOMAIN");
}

#[test]
fn aliases() {
    check("CNAME outside.default.svc.cluster.local.", "example.com.");
    check("A outside.default.svc.cluster.local.", "example.com. -> example.com.");
    check("A inside.default.svc.cluster.local.", "10.96.0.50, web.default.svc.cluster.local.");
    assert!(ask(&zone().0, "A loop.default.svc.cluster.local.").starts_with("loop.default"));
}

#[test]
fn the_zone_itself() {
    check("TXT dns-version.cluster.local.", "1.1.0");
    check("NS cluster.local.", "ns.dns.cluster.local.");
    assert!(
        ask(&zone().0, "SOA cluster.local.")
            .starts_with("ns.dns.cluster.local. hostmaster.cluster.local.")
    );
    check("A example.com.", "elsewhere");
    check("A local.", "elsewhere");
    check("A notcluster.local.", "elsewhere");
    check("A .", "elsewhere");
}

#[test]
fn answers_take_turns() {
    let (zone, _) = zone();
    let first = || match zone
        .answer(&Name::from_ascii("db.prod.svc.cluster.local.").unwrap(), RecordType::A)
    {
        Answer::Records { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_ne!(first(), first());
}

#[test]
fn what_is_deleted_leaves_nothing_behind() {
    let (mut zone, mut catalog) = zone();
    let untouched = format!("{:?}", Zone::new(&origin())).len();
    feed(&mut catalog, OBJECTS, true);
    update(&mut zone, &mut catalog);
    assert_eq!(ask(&zone, "A svc.cluster.local."), "NXDOMAIN");
    assert_eq!(ask(&zone, "PTR 5.0.42.10.in-addr.arpa."), "elsewhere");
    assert!(format!("{zone:?}").len() < untouched + 64, "no names are left");
}

#[test]
fn a_relist_drops_what_it_does_not_show() {
    let (mut zone, mut catalog) = zone();
    catalog.service_event(Event::Init);
    catalog.service_event(Event::InitDone);
    update(&mut zone, &mut catalog);
    assert_eq!(ask(&zone, "A web.default.svc.cluster.local."), "NXDOMAIN");
}
