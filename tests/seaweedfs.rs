//! SeaweedFS as the tests start it answers, and keeps one test's bucket from another's.

mod support;

use support::raw::Client;
use support::weed::Weed;

#[tokio::test]
async fn each_test_gets_a_bucket_of_its_own() {
    let weed = Weed::shared().await;
    let client = Client::new(weed.endpoint());
    let (one, two) = (weed.fresh_bucket().await, weed.fresh_bucket().await);
    assert_eq!(client.put(&format!("/{one}/k"), &[], "x").await.status, 200);
    assert_eq!(client.get(&format!("/{one}/k"), &[]).await.text(), "x");
    assert_eq!(client.get(&format!("/{two}/k"), &[]).await.status, 404);
    let refused = Client::new(weed.endpoint()).with_secret_key("wrong");
    assert_eq!(refused.get(&format!("/{one}/k"), &[]).await.status, 403);
}
