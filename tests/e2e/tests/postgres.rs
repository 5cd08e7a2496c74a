//! A workload that nobody wrote for Skiff: PostgreSQL from the distribution's packages.

use std::time::Duration;

use e2e::{Cluster, Host, eventually_within};
use serde_json::json;

#[test]
fn a_database_keeps_a_table_and_serves_it_to_other_pods() {
    let host = Host::new("postgres");
    let cluster = Cluster::start(&host);
    cluster.load("postgres.tar");
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "db", "labels": { "app": "db" } },
        "spec": {
            "securityContext": { "fsGroup": 999 },
            "volumes": [{ "name": "data", "emptyDir": {} }],
            "containers": [{
                "name": "postgres",
                "image": "postgres:15",
                "env": [{ "name": "POSTGRES_PASSWORD", "value": "secret" }],
                "ports": [{ "containerPort": 5432 }],
                "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/postgresql/data" }],
                "readinessProbe": {
                    "exec": { "command": ["/usr/lib/postgresql/15/bin/pg_isready", "-h", "127.0.0.1"] },
                    "periodSeconds": 1,
                },
            }],
        },
    }));
    cluster.kubectl("expose pod db --port=5432").ok();
    cluster
        .kubectl("run client --image=postgres:15 --env=PGPASSWORD=secret --command -- sleep 1000")
        .ok();
    cluster.kubectl("wait --for=condition=Ready pod/db pod/client --timeout=120s").ok();
    let sql = |statement: &str| {
        cluster.kubectl_args(&[
            "exec",
            "client",
            "--",
            "/usr/lib/postgresql/15/bin/psql",
            "-h",
            "db",
            "-U",
            "postgres",
            "-Atc",
            statement,
        ])
    };
    eventually_within(Duration::from_secs(30), "the Service leads to the database", || {
        sql("select 1").code == Some(0)
    });
    sql("create table boats (name text); insert into boats values ('skiff'), ('dinghy')").ok();
    assert_eq!(sql("select name from boats order by name").ok(), "dinghy\nskiff\n");
}
