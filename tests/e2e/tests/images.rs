//! Images to and from a real registry, and as pods use them.

use e2e::registry::{Door, Registry};
use e2e::{Cluster, Host, eventually};
use serde_json::{Value, json};

fn pod(name: &str, image: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": image, "imagePullPolicy": policy }],
        },
    })
}

fn waiting(cluster: &Cluster, name: &str) -> String {
    cluster.field(&format!("pod {name}"), "{.status.containerStatuses[0].state.waiting.reason}")
}

fn events(cluster: &Cluster, name: &str) -> String {
    let of = format!("events --field-selector involvedObject.name={name}");
    cluster.field(&of, "{range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}")
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_into_a_pod() {
    let host = Host::new("registry-http");
    let registry = Registry::start(&host, Door::Http);
    let config = host.dir().join("registries.yaml");
    let mirrors =
        json!({"mirrors": {&registry.host: {"endpoint": [format!("http://{}", registry.host)]}}});
    std::fs::write(&config, mirrors.to_string()).unwrap();
    let cluster = Cluster::start_with(&host, &["--registries", &config.display().to_string()]);
    let image = format!("{}/team/kuard:1", registry.host);
    cluster.skiff(&["image", "tag", "kuard:blue", &image]).ok();
    let pushed = cluster.skiff(&["image", "push", &image]).ok();
    assert!(pushed.contains(&format!("Pushed {image}")), "{pushed}");
    cluster.skiff(&["image", "rm", &image, "kuard:blue"]).ok();
    let left = cluster.skiff(&["image", "ls"]).ok();
    assert!(!left.contains("kuard"), "{left}");

    cluster.apply(&pod("web", &image, "Always"));
    cluster.wait_until_ready("web");
    let told = events(&cluster, "web");
    assert!(told.contains(&format!("Normal Pulling Pulling image \"{image}\"")), "{told}");
    assert!(
        told.contains(&format!("Normal Pulled Successfully pulled image \"{image}\" in ")),
        "{told}"
    );
    assert!(told.contains("including waiting). Image size: "), "{told}");
    let id = cluster.field("pod web", "{.status.containerStatuses[0].imageID}");
    assert!(id.starts_with(&format!("{}/team/kuard@sha256:", registry.host)), "{id}");

    // By that digest too, and refused while it is in use.
    cluster.apply(&pod("by-digest", &id, "IfNotPresent"));
    cluster.wait_until_ready("by-digest");
    let refused = cluster.skiff(&["image", "rm", &image]).fails();
    assert!(refused.contains("is used by container"), "{refused}");

    let missing = format!("{}/team/kuard:2", registry.host);
    cluster.apply(&pod("missing", &missing, "IfNotPresent"));
    eventually("the pull backs off", || waiting(&cluster, "missing") == "ImagePullBackOff");
    let told = events(&cluster, "missing");
    assert!(
        told.contains(&format!("Warning Failed Failed to pull image \"{missing}\": ")),
        "{told}"
    );
    assert!(told.contains(&format!("{missing}: not found")), "{told}");
    assert!(told.contains("Warning Failed Error: ErrImagePull"), "{told}");
    assert!(
        told.contains(&format!("Normal BackOff Back-off pulling image \"{missing}\"")),
        "{told}"
    );
    assert!(told.contains("Warning Failed Error: ImagePullBackOff"), "{told}");
}

#[test]
fn a_registry_with_tls_and_a_password_is_pulled_from_with_a_pull_secret() {
    let host = Host::new("registry-tls");
    let registry = Registry::start(&host, Door::Tls);
    let config = host.dir().join("registries.yaml");
    let cluster = Cluster::start_with(&host, &["--registries", &config.display().to_string()]);
    let image = format!("{}/private/kuard:1", registry.host);
    cluster.skiff(&["image", "tag", "kuard:blue", &image]).ok();
    let unknown = cluster.skiff(&["image", "push", "--creds", "robot:hush", &image]).fails();
    assert!(unknown.contains("invalid peer certificate"), "{unknown}");
    // The file is read for every pull and push.
    let trust = json!({"configs": {&registry.host: {"tls": {"ca_file": registry.authority}}}});
    std::fs::write(&config, trust.to_string()).unwrap();
    let refused = cluster.skiff(&["image", "push", "--creds", "robot:wrong", &image]).fails();
    assert!(refused.contains("access denied"), "{refused}");
    cluster.skiff(&["image", "push", "--creds", "robot:hush", &image]).ok();
    cluster.skiff(&["image", "rm", &image, "kuard:blue"]).ok();

    cluster.apply(&pod("stranger", &image, "Always"));
    eventually("the stranger is refused", || waiting(&cluster, "stranger") == "ImagePullBackOff");
    let told = events(&cluster, "stranger");
    assert!(told.contains("no basic auth credentials"), "{told}");

    let create = "create secret docker-registry pull --docker-username=robot --docker-password=hush --docker-server=";
    cluster.kubectl(&format!("{create}{}", registry.host)).ok();
    let mut friend = pod("friend", &image, "Always");
    friend["spec"]["imagePullSecrets"] = json!([{ "name": "pull" }]);
    cluster.apply(&friend);
    cluster.wait_until_ready("friend");

    // And by the service account's, which admission hands on.
    let patch = r#"{"imagePullSecrets":[{"name":"pull"}]}"#;
    cluster.kubectl_args(&["patch", "serviceaccount", "default", "-p", patch]).ok();
    cluster.apply(&pod("heir", &image, "Always"));
    cluster.wait_until_ready("heir");
}

#[test]
fn images_that_cannot_be_had_say_why() {
    let host = Host::new("no-image");
    let cluster = Cluster::start(&host);
    cluster.apply(&pod("never", "kuard:nowhere", "Never"));
    cluster.apply(&pod("odd", "Kuard:Blue", "IfNotPresent"));
    cluster.apply(&pod("offline", "registry.example/app", "Always"));
    eventually("each has its reason", || {
        waiting(&cluster, "never") == "ErrImageNeverPull"
            && waiting(&cluster, "odd") == "InvalidImageName"
            && waiting(&cluster, "offline").starts_with("ErrImagePull")
                | (waiting(&cluster, "offline") == "ImagePullBackOff")
    });
    let told = events(&cluster, "offline");
    assert!(told.contains("cannot reach https://registry.example/"), "{told}");
    let told = events(&cluster, "odd");
    assert!(told.contains("Warning InspectFailed Failed to apply default image tag"), "{told}");
}

#[test]
fn what_is_saved_is_loaded_again_the_same() {
    let host = Host::new("save");
    let cluster = Cluster::start(&host);
    let id = |name: &str| {
        let all: Value =
            serde_json::from_str(&cluster.skiff(&["image", "inspect", name]).ok()).unwrap();
        all[0]["Id"].as_str().unwrap().to_owned()
    };
    let before = id("kuard:blue");
    let archive = host.dir().join("saved.tar").display().to_string();
    cluster.skiff(&["image", "tag", "kuard:blue", "kuard:other"]).ok();
    cluster.skiff(&["image", "save", "-o", &archive, "kuard:blue", "kuard:other"]).ok();
    cluster.skiff(&["image", "rm", "kuard:blue", "kuard:other"]).ok();
    assert_eq!(cluster.skiff(&["image", "ls", "-q"]).ok(), "");
    cluster.skiff(&["image", "load", &archive]).ok();
    assert_eq!((id("kuard:blue"), id("kuard:other")), (before.clone(), before));
    cluster.apply(&pod("web", "kuard:other", "Never"));
    cluster.wait_until_ready("web");
    let pruned = cluster.skiff(&["image", "prune", "--all"]).ok();
    assert!(pruned.contains("0 images"), "{pruned}");
    let missing = cluster.skiff(&["image", "save", "kuard:no"]).fails();
    assert!(missing.contains("not present"), "{missing}");
}

#[test]
fn an_image_is_built_and_runs_in_a_pod() {
    let host = Host::new("build");
    let cluster = Cluster::start(&host);
    let context = host.dir().join("context");
    std::fs::create_dir_all(context.join("secret")).unwrap();
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("install busybox-static");
    std::fs::write(context.join("secret/key"), "hush").unwrap();
    std::fs::write(context.join("page"), "hello\n").unwrap();
    std::fs::write(context.join(".dockerignore"), "secret\nDockerfile\n").unwrap();
    let dockerfile = "FROM scratch AS base\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n\
                      FROM base\nCOPY . /site/\nRUN tr a-z A-Z < /site/page > /site/loud\n\
                      WORKDIR /site\nUSER 1000\nCMD [\"sh\", \"-c\", \"ls; cat loud; exec sleep 1000\"]\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let dir = context.display().to_string();
    let built = cluster.skiff(&["image", "build", "--tag", "site:1", &dir]).ok();
    assert!(built.starts_with("Built site:1 ("), "{built}");
    cluster.apply(&pod("site", "site:1", "Never"));
    cluster.wait_until_ready("site");
    eventually("the page is printed", || {
        cluster.kubectl("logs site").ok() == "busybox\nloud\npage\nHELLO\n"
    });

    std::fs::write(context.join("Dockerfile"), "FROM site:1\nRUN false\n").unwrap();
    let failed = cluster.skiff(&["image", "build", "--tag", "site:2", &dir]).fails();
    assert!(
        failed
            .contains("line 2: RUN: the command \"/bin/sh -c false\" returned a non-zero code: 1"),
        "{failed}"
    );
    assert!(!cluster.skiff(&["image", "ls"]).ok().contains("site:2"));
}
