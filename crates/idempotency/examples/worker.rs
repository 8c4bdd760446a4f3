//! A consumer that handles each message once and says by hand how it ended: `cargo run -p idempotency --example worker`.

use std::collections::VecDeque;
use std::time::Duration;

use idempotency::{Begun, Idempotency, stores};
use serde::Serialize;

/// A message of a queue that delivers at least once.
#[derive(Clone, Serialize)]
pub struct Message {
    /// The queue's own number of it, the same in every delivery.
    pub id: u32,
    /// What it says.
    pub body: String,
}

/// What the consumer tells its queue.
enum Reply {
    Ack,
    Again(Duration),
}

async fn deliver(
    consumer: &Idempotency,
    message: &Message,
    handled: &mut Vec<String>,
) -> Result<Reply, Box<dyn std::error::Error>> {
    match consumer.call("messages", message.id.to_string())?.payload(message).begin::<usize>().await? {
        Begun::Run(attempt) => {
            handled.push(message.body.clone());
            attempt.complete(message.body.len()).await?; // dropped before this, the message is held
            Ok(Reply::Ack)
        }
        Begun::Replayed(_) => Ok(Reply::Ack),
        Begun::InFlight { retry_after } => Ok(Reply::Again(retry_after)),
    }
}

/// Handles what is delivered; what was handled, in order.
pub async fn work(url: &str, mut queue: VecDeque<Message>) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let consumer = Idempotency::new(stores::open(url)?);
    let mut handled = vec![];
    while let Some(message) = queue.pop_front() {
        match deliver(&consumer, &message, &mut handled).await? {
            Reply::Ack => {}
            Reply::Again(after) => {
                tokio::time::sleep(after).await;
                queue.push_back(message);
            }
        }
    }
    // What is still on its way to the store gets there.
    consumer.drain(Duration::from_secs(5)).await;
    Ok(handled)
}

#[tokio::main]
#[allow(dead_code, reason = "a test runs what it does")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let message = |id, body: &str| Message { id, body: body.into() };
    let deliveries = [message(1, "one"), message(2, "two"), message(1, "one")];
    println!("{:?}", work("memory://", deliveries.into()).await?); // ["one", "two"]
    Ok(())
}
