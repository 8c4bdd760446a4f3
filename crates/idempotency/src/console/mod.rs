//! The operator's page: what is stored, the story of one record, and an end for what only a person can decide.
//!
//! [`Console`] is the page without a server: it takes a request and gives an answer, HTML and all. With the feature
//! `axum`, `router` mounts it in an application. The page is plain HTML and forms; its one script only fetches the list
//! anew.
//!
//! - Whoever mounts it says who may see it. Behind that, each form has a token that belongs to a cookie of the browser's, and
//!   a form from another origin is refused.
//! - A list tells operations, never keys. A key or a body is shown where it is asked for.
//! - A record changes only with a reason, which is logged as a warning with the record's short id, its fence and who gave it;
//!   and only while it is the one that was looked at.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use idempotency::console::{Console, Request};
//! use idempotency::{Idempotency, stores::MemoryStore};
//!
//! let console = Console::new(Idempotency::new(MemoryStore::new()));
//! let answer = console.answer(&Request::get("/", "")).await;
//! assert_eq!(answer.status, 200);
//! assert!(String::from_utf8(answer.body).unwrap().contains("Nothing is stored here."));
//! # });
//! ```

#[cfg(feature = "axum")]
mod axum;
mod change;
mod find;
mod guard;
mod list;
mod page;
mod request;
mod serving;
mod session;
mod story;
mod value;

#[cfg(feature = "axum")]
pub use self::axum::router;
#[cfg(feature = "cli")]
pub(crate) use guard::is_equal;
pub use request::{MAX_BODY, Request};
pub use serving::Console;
