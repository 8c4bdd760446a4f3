//! An operator's word on a record.

use std::sync::Arc;

use super::page::{self, Message, Site};
use super::request::{Fields, Request};
use super::story::{Notice, Story};
use super::value::Draft;
use crate::engine::Idempotency;
use crate::http::Answer;
use crate::key::StorageKey;
use crate::seen::harmless;

/// The most characters of a reason.
const REASON: usize = 500;

/// Frees a key: the next request with it runs.
pub(super) async fn release(engine: &Idempotency, key: &str, request: &Request<'_>, site: &Site) -> Answer {
    let form = request.form();
    let change = Change { engine, site, form: &form, verb: "released", done: "released" };
    change.make(key, |_| Ok((None, String::new()))).await
}

/// Completes a key: every repeat gets this result.
pub(super) async fn resolve(engine: &Idempotency, key: &str, request: &Request<'_>, site: &Site) -> Answer {
    let form = request.form();
    let change = Change { engine, site, form: &form, verb: "resolved", done: "resolve" };
    change.make(key, |draft| draft.stored().map(|(stored, what)| (Some(stored.into()), format!(" with {what}")))).await
}

struct Change<'a> {
    engine: &'a Idempotency,
    site: &'a Site,
    form: &'a Fields,
    verb: &'a str,
    done: &'a str,
}

/// The result, and what it is in words.
type Word = Result<(Option<Arc<[u8]>>, String), String>;

impl Change<'_> {
    async fn make(&self, key: &str, word: impl Fn(&Draft) -> Word) -> Answer {
        let Some(key) = StorageKey::parse(key.as_bytes()) else { return Message::no_record(self.site) };
        let draft = Draft::of(self.form);
        let Ok(fence) = self.form.get("fence").parse::<u64>() else {
            return self.refused(&key, draft, 422, "The form does not say which attempt it is about.".into()).await;
        };
        if draft.reason.is_empty() || draft.reason.chars().count() > REASON {
            let why = format!("Say why, in at most {REASON} characters: it is logged.");
            return self.refused(&key, draft, 422, why).await;
        }
        let (result, what) = match word(&draft) {
            Ok(word) => word,
            Err(why) => return self.refused(&key, draft, 422, why).await,
        };
        match self.engine.resolve(&key, fence, result, false).await {
            Ok(true) => {
                tracing::warn!(
                    "an operator ({}) {} the record [{}], fence {fence}{what}: {:?}",
                    harmless(self.site.operator()),
                    self.verb,
                    key.id(),
                    draft.reason
                );
                page::see_other(&match self.done {
                    "resolve" => format!("{}/record/{key}?did=resolve", self.site.mount),
                    _ => format!("{}/records?released={}", self.site.mount, key.id()),
                })
            }
            Ok(false) => {
                let why = "The record has changed since you looked at it: another attempt may have run, or its own has ended. \
                           This is how it stands now.";
                self.refused(&key, draft, 409, why.into()).await
            }
            Err(error) => Message::store_failed(self.site, &error),
        }
    }

    /// The record as it stands, and why nothing was changed.
    async fn refused(&self, key: &StorageKey, draft: Draft, status: u16, why: String) -> Answer {
        match self.engine.get(key).await {
            Ok(Some((held, now))) => {
                let story = Story::new(self.site, key, &held, now, "").notice(Notice::Refused(why));
                // A form without a result leaves the other one as it begins.
                if draft.kind.is_empty() { story } else { story.draft(draft) }.answer(status)
            }
            Ok(None) => Message::no_record(self.site),
            Err(error) => Message::store_failed(self.site, &error),
        }
    }
}
