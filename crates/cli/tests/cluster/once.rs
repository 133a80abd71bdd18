//! Each byte is read from the origin once, whoever asks whom.

use crate::members::{Members, all_right};
use gannet_testkit::origin::{Object, Origin};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_of_five_members_cost_the_origin_one_read() {
    let origin = Origin::start();
    let object = origin.put("models", "weights.bin", Object::generated(7, 4 * MIB));
    // On a machine that is busy with all of this, nothing is to be hedged for its slowness.
    let args = ["--chunk-size=1MiB", "--hedge-after=30s"];
    let members = Members::start(5, &origin, &args).await;
    let stampedes = members.stampede("models/weights.bin", 1000).await;
    all_right(&stampedes, &object.sha256());
    let counts = origin.counts_of("models", "weights.bin");
    assert_eq!(
        (counts.gets, counts.bytes),
        (4, 4 * MIB),
        "one GET for each chunk"
    );
    assert_eq!(counts.heads, 1, "one HEAD in the cluster");
}
