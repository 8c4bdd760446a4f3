//! [`Console`]: which page a request is for.

use super::page::{self, Message, Site};
use super::request::Request;
use super::{change, guard, list, story};
use crate::engine::Idempotency;
use crate::http::Answer;

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
        guard::protect(&mut answer, &site, true);
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
        guard::protect(&mut answer, &site, false);
        answer
    }
}
