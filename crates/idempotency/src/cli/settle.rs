//! `resolve` and `release`: an operator's word on a record.

use std::sync::Arc;

use serde_json::json;

use super::Run;
use super::arguments::{Name, Word};
use super::exit::{Failure, usage};
use super::find::{Found, find};
use super::seen::Seen;
use super::words::duration;
use crate::http::{Answer, has_body, store_answer};
use crate::seen::Standing;

/// What a repeat is to get.
pub(super) struct Answered {
    pub(super) status: Option<u16>,
    pub(super) body: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) result: Option<String>,
}

impl Answered {
    /// Its stored form.
    fn stored(self, run: &Run) -> Result<Arc<[u8]>, Failure> {
        let Self { status, body, content_type, result } = self;
        if let Some(result) = result {
            if (status, &body, &content_type) != (None, &None, &None) {
                return Err(usage("--result is for a function; --status, --body and --type are for a request"));
            }
            return (run.encode)(&result).map(Into::into).map_err(usage);
        }
        if status.is_none() && body.is_none() {
            return Err(usage("say what a repeat gets: --status and --body, or --result for a function"));
        }
        let (status, body) = (status.unwrap_or(200), body.unwrap_or_default());
        if !has_body(status) && !body.is_empty() {
            return Err(usage(format!("an answer of status {status} has no body")));
        }
        let length = body.len().to_string();
        let mut headers = vec![];
        if let Some(kind) = &content_type {
            if kind.is_empty() || !kind.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                return Err(usage(format!("{kind:?} is no content type")));
            }
            headers.push(("content-type", kind.as_str()));
        }
        if has_body(status) {
            headers.push(("content-length", length.as_str()));
        }
        let answer = Answer { status, headers, body: body.as_str() };
        store_answer(answer, &[], false).map(Into::into).map_err(|error| usage(error.to_string()))
    }
}

pub(super) async fn resolve(run: &mut Run, name: &Name, word: &Word, answer: Answered) -> Result<(), Failure> {
    let result = answer.stored(run)?;
    settle(run, name, word, Some(result)).await
}

pub(super) async fn release(run: &mut Run, name: &Name, word: &Word) -> Result<(), Failure> {
    settle(run, name, word, None).await
}

async fn settle(run: &mut Run, name: &Name, word: &Word, result: Option<Arc<[u8]>>) -> Result<(), Failure> {
    let Found { key, held, now } = find(run, name).await?;
    let seen = Seen::with(key, &held, now, None, held.record.encoded_len());
    let (label, state) = (seen.shown(), seen.standing.words());
    if !seen.standing.is_open() && !word.force {
        let why = match seen.standing {
            Standing::InFlight => "its attempt may still be running",
            _ => "it is done, and a repeat would get something else",
        };
        return Err(Failure::Refused(format!("{label} is {state}: {why}. Pass --force if that is what you want.")));
    }
    let fence = word.fence.unwrap_or(seen.fence);
    let changed = || Failure::Refused(format!("{label} has changed, or its fence is not {fence}; look at it again."));
    if fence != seen.fence {
        return Err(changed());
    }
    let (verb, done, follows) = match result {
        Some(_) => ("Resolve", "resolved", "Every repeat gets the result that you gave, and nothing runs."),
        None => ("Release", "released", "The next request with this key runs."),
    };
    if !word.yes {
        let question =
            format!("{label} is {state}; it began {} ago. {follows}\n{verb} it? [y/N] ", duration(seen.age()));
        confirm(run, &question).await?;
    }
    if !run.engine.resolve(&key, fence, result, word.force).await? {
        return Err(changed());
    }
    let text = match run.json {
        true => json!({ done: seen.label, "id": key.to_string(), "fence": fence }).to_string(),
        false => format!("{done}: {label}"),
    };
    Ok(run.streams.print(&format!("{text}\n"))?)
}

/// Asks whoever sits at the terminal.
async fn confirm(run: &mut Run, question: &str) -> Result<(), Failure> {
    if !run.streams.can_ask {
        return Err(usage("nobody can be asked here: pass --yes to change the record"));
    }
    run.streams.tell_part(question)?;
    // On a thread of its own: a signal ends the wait, not the end of a line.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await.map_err(std::io::Error::other)??;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Refused("nothing was changed".into())),
    }
}
