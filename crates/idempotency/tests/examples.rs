//! The programs in `examples/`.

#[path = "../examples/charge.rs"]
mod charge;
#[path = "../examples/worker.rs"]
mod worker;

#[tokio::test]
async fn the_function_charges_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}", folder.path().join("charge.db").display());
    assert!(!charge::pay(&url, 42).await.unwrap());
    assert!(charge::pay(&url, 42).await.unwrap());
    let error = charge::pay(&url, 43).await.unwrap_err();
    assert!(error.to_string().starts_with("the idempotency key was used with another payload"), "{error}");
}

#[tokio::test]
async fn the_worker_handles_each_message_once() {
    let message = |id, body: &str| worker::Message { id, body: body.into() };
    let deliveries = [message(1, "one"), message(2, "two"), message(1, "one")];
    assert_eq!(worker::work("memory://", deliveries.into()).await.unwrap(), ["one", "two"]);
}
