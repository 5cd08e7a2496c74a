//! What loses its owner goes, also when the collector could not see it happen.

use k8s_openapi::api::core::v1::{ConfigMap, PodTemplate};
use kube::Resource;
use kube::api::{DeleteParams, PostParams};

use crate::cluster::TestCluster;
use crate::cluster::chaos::Chaos;
use crate::cluster::testing::yaml;

/// The owner was there when the dependent was looked at, and gone before its own watch told of it: nobody looked again.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_goes_unseen_takes_its_dependents_with_it() {
    let deaf = Chaos::deaf_to("/podtemplates");
    let cluster = TestCluster::start_with("garbage-unseen", Some(deaf)).await;
    let (owners, dependents) =
        (cluster.api::<PodTemplate>("default"), cluster.api::<ConfigMap>("default"));
    let owner =
        yaml("{metadata: {name: owner}, template: {spec: {containers: [{name: c, image: i}]}}}");
    let owner = owners.create(&PostParams::default(), &owner).await.expect("created");
    let mut dependent: ConfigMap = yaml("{metadata: {name: dependent}}");
    dependent.metadata.owner_references = owner.owner_ref(&()).map(|owner| vec![owner]);
    let looks = |cluster: &TestCluster| cluster.looks("generic-garbage-collector");
    let before = looks(&cluster);
    dependents.create(&PostParams::default(), &dependent).await.expect("created");
    cluster.eventually("a look at the dependent", async |c| looks(c) > before).await;
    assert!(dependents.get_opt("dependent").await.expect("an answer").is_some());

    owners.delete("owner", &DeleteParams::background()).await.expect("deleted");
    cluster
        .eventually("the dependent is gone", async |_| {
            dependents.get_opt("dependent").await.expect("an answer").is_none()
        })
        .await;
    cluster.stop().await;
}
