//! A function on SQLite that charges once, however often it is called: `cargo run -p idempotency --features sqlite --example
//! charge [file]`. Run it twice: the second time it replays.

use std::io::Error;

use idempotency::{CurrentAttempt, Idempotency, stores};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Order {
    id: String,
    amount: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Receipt {
    amount: u32,
    reference: String,
}

/// The bank's own key makes it safe to run again after a crash.
async fn charge(attempt: CurrentAttempt, amount: u32) -> Result<Receipt, Error> {
    Ok(Receipt { amount, reference: attempt.derive("bank") })
}

/// Charges an order; whether it was charged before.
pub async fn pay(url: &str, amount: u32) -> Result<bool, Box<dyn std::error::Error>> {
    let payments = Idempotency::new(stores::open(url)?);
    let order = Order { id: "order-7".into(), amount };
    let call = payments.call("charge", &order.id)?.payload(&order);
    let done = call.run(async |attempt| charge(attempt, order.amount).await).await?;
    println!("{done:?}");
    Ok(done.is_replay())
}

#[tokio::main]
#[allow(dead_code, reason = "a test runs what it does")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "charge.db".into());
    pay(&format!("sqlite:///{file}"), 42).await?;
    Ok(())
}
