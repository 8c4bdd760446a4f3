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
mod label;
mod list;
mod page;
mod request;
mod story;
mod value;

use crate::engine::Idempotency;
use crate::http::Answer;

#[cfg(feature = "axum")]
pub use self::axum::router;
#[cfg(feature = "cli")]
pub(crate) use guard::is_equal;
use page::{Message, Site};
pub use request::{MAX_BODY, Request};

/// The operator's page over an engine, for any server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Console {
    engine: Idempotency,
}

impl Console {
    /// The page of what this engine's store has.
    pub fn new(engine: Idempotency) -> Self {
        Self { engine }
    }

    /// Answers a request, of somebody who may see the page: that is the caller's to know.
    pub async fn answer(&self, request: &Request<'_>) -> Answer {
        let site = Site::of(request);
        let mut answer = match request.method {
            "GET" | "HEAD" => self.get(request, &site).await,
            "POST" => self.post(request, &site).await,
            _ => {
                let mut answer = Message::bad_method(&site);
                answer.headers.push((b"allow".into(), b"GET, HEAD, POST".into()));
                answer
            }
        };
        guard::protect(&mut answer, &site);
        if request.method == "HEAD" {
            answer.body.clear();
        }
        answer
    }

    async fn get(&self, request: &Request<'_>, site: &Site) -> Answer {
        match request.parts()[..] {
            // Of frameworks some mount the place itself with a slash at its end, some without.
            [] | ["records"] => list::page(&self.engine, request, site).await,
            ["rows"] => list::rows(&self.engine, request, site).await,
            ["record", key] => story::page(&self.engine, key, request, site).await,
            _ => page::file(request).unwrap_or_else(|| Message::no_page(site)),
        }
    }

    async fn post(&self, request: &Request<'_>, site: &Site) -> Answer {
        if let Err(refused) = guard::is_own_form(request, site) {
            return Message::refused_form(site, refused);
        }
        if !request.may_change {
            return Message::only_looks(site);
        }
        match request.parts()[..] {
            ["record", key, "release"] => change::release(&self.engine, key, request, site).await,
            ["record", key, "resolve"] => change::resolve(&self.engine, key, request, site).await,
            _ => Message::no_page(site),
        }
    }

    /// What somebody gets who may not see the page: 403, and nothing of what is stored.
    pub fn forbidden(request: &Request<'_>) -> Answer {
        Self::refuse(request, "You are not known as one.")
    }

    /// What somebody gets who may not see the page, and why.
    pub(crate) fn refuse(request: &Request<'_>, why: &str) -> Answer {
        let site = Site::of(request);
        let mut answer = page::file(request).unwrap_or_else(|| Message::forbidden(&site, why));
        guard::protect(&mut answer, &site);
        answer
    }
}
