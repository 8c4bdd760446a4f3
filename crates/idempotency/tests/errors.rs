//! Errors pass `?`, under anyhow, under thiserror and by themselves.

use std::error::Error as _;

use idempotency::stores::{self, MemoryStore};
use idempotency::{Begun, Error, Idempotency};

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("the card was declined")]
struct Declined;

fn engine() -> Idempotency {
    Idempotency::new(MemoryStore::new())
}

async fn declined(_: idempotency::CurrentAttempt) -> Result<u32, Declined> {
    Err(Declined)
}

#[tokio::test]
async fn they_pass_under_anyhow() {
    let pay = async || -> anyhow::Result<u32> {
        let engine = Idempotency::new(stores::open("memory://")?);
        Ok(engine.call("work", "1")?.payload(&1).run(declined).await?.into_inner())
    };
    let error = pay().await.unwrap_err();
    assert_eq!(format!("{error:#}"), "the work failed: the card was declined");
    assert!(matches!(error.downcast_ref(), Some(Error::Work(Declined))));
    assert_eq!(error.root_cause().downcast_ref(), Some(&Declined));
}

#[tokio::test]
async fn work_whose_error_is_anyhow_s_passes_boxed() {
    let work = async |_| -> anyhow::Result<u32> { Err(anyhow::Error::new(Declined).context("at the bank")) };
    let pay = async || -> anyhow::Result<u32> {
        Ok(engine().call("work", "1")?.run(work).await.map_err(Error::boxed)?.into_inner())
    };
    assert_eq!(format!("{:#}", pay().await.unwrap_err()), "the work failed: at the bank: the card was declined");
    let text = engine().call("work", "1").unwrap().run(async |_| Err::<u32, _>("no")).await.map_err(Error::boxed);
    let Err(Error::Work(inner)) = text else { panic!("{text:?}") };
    assert_eq!(inner.into_inner().to_string(), "no");
}

#[derive(Debug, thiserror::Error)]
enum PayError {
    #[error("it was not paid")]
    Key(#[from] idempotency::KeyError),
    #[error("it was not paid")]
    Idempotency(#[from] Error<Declined>),
    #[error("it was not handled")]
    ByHand(#[from] Error),
}

#[tokio::test]
async fn they_pass_under_thiserror() {
    let engine = engine();
    let pay =
        async |key: &str| -> Result<u32, PayError> { Ok(engine.call("work", key)?.run(declined).await?.into_inner()) };
    assert!(matches!(pay("").await, Err(PayError::Key(idempotency::KeyError::Empty))));
    let error = pay("1").await.unwrap_err();
    assert_eq!(error.source().unwrap().source().unwrap().downcast_ref(), Some(&Declined));
    let by_hand = async || -> Result<(), PayError> {
        match engine.call("work", "2")?.begin::<u32>().await? {
            Begun::Run(attempt) => attempt.complete(1).await.map(drop)?,
            other => panic!("{other:?}"),
        }
        engine.call("work", "2")?.payload("another").begin::<u32>().await?;
        Ok(())
    };
    assert!(matches!(by_hand().await, Err(PayError::ByHand(Error::Conflict))));
}

#[tokio::test]
async fn key_and_store_errors_become_a_call_s_own() {
    let pay = async |url: &str, key: &str| -> Result<u32, Error<Declined>> {
        Ok(Idempotency::new(stores::open(url)?).call("work", key)?.run(declined).await?.into_inner())
    };
    assert!(matches!(pay("nowhere://", "1").await, Err(Error::Store(_))));
    let error = pay("memory://", "").await.unwrap_err();
    assert_eq!(error.to_string(), "the idempotency key is empty; send 1 to 255 characters");
    let away = pay("redis://127.0.0.1:1", "1").await.unwrap_err();
    assert_eq!(away.to_string(), "the store of the idempotency keys can't be used");
    assert!(away.source().unwrap().to_string().contains("127.0.0.1:1 can't be reached"), "{away:?}");
}
