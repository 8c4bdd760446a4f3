//! One record's story, and the forms that end it.

use askama::Template;

use super::find;
use super::page::{self, Message, Site};
use super::request::Request;
use super::value::Draft;
use crate::decide::Held;
use crate::engine::Idempotency;
use crate::http::{Answer, Note, Replay};
use crate::key::StorageKey;
use crate::record::{AfterCrash, Micros, State};
use crate::result_tags::{JSON, described};
use crate::seen::{Named, Standing, harmless};
use crate::words;

/// The most bytes of a body that are shown.
const BODY_SHOWN: usize = 64 << 10;

/// What is said above the story.
pub(super) enum Notice {
    /// It went well.
    Done(&'static str),
    /// Nothing was changed, and why.
    Refused(String),
}

/// A stored result.
struct Stored {
    what: &'static str,
    size: String,
    status: Option<u16>,
    headers: Vec<(String, String)>,
    /// Where it is shown.
    body: Option<String>,
    body_size: String,
    is_cut: bool,
}

#[derive(Template)]
#[template(path = "console/story.html")]
pub(super) struct Story<'a> {
    site: &'a Site,
    notice: Option<Notice>,
    key: String,
    id: String,
    operation: String,
    /// The client's key, where it is shown.
    client_key: Option<String>,
    shows_body: bool,
    state: &'static str,
    slug: &'static str,
    meaning: &'static str,
    is_open: bool,
    fence: u64,
    began: String,
    age: String,
    /// While it is claimed.
    lease: Option<String>,
    lease_length: String,
    ttl: String,
    after_crash: &'static str,
    result: Option<Stored>,
    draft: Draft,
}

impl<'a> Story<'a> {
    /// - `shown`: which of `key` and `body` were asked for.
    pub(super) fn new(site: &'a Site, key: &StorageKey, held: &Held, now: Micros, shown: &str) -> Self {
        let record = &held.record;
        let standing = Standing::of(held, now);
        let named = Named::of(&record.label);
        let shows = |what: &str| shown.split(' ').any(|shown| shown == what);
        Self {
            site,
            notice: None,
            key: key.to_string(),
            id: key.id(),
            client_key: shows("key").then(|| harmless(named.key)),
            shows_body: shows("body"),
            state: standing.words(),
            slug: standing.slug(),
            meaning: standing.meaning(record.after_crash),
            is_open: standing.is_open(),
            fence: record.fence,
            began: words::time(record.fence),
            age: find::age(record.fence),
            lease: (record.state == State::InFlight).then(|| find::lease(held, now)),
            lease_length: words::duration(record.lease),
            ttl: words::duration(record.ttl),
            after_crash: match record.after_crash {
                AfterCrash::Rerun => "rerun: at least once",
                AfterCrash::Refuse => "refuse: at most once",
            },
            result: stored(held, shows("body")),
            draft: Draft::empty(named.operation.contains(" /")),
            operation: harmless(named.operation),
        }
    }

    pub(super) fn notice(self, notice: Notice) -> Self {
        Self { notice: Some(notice), ..self }
    }

    /// With the form as it was filled in.
    pub(super) fn draft(self, draft: Draft) -> Self {
        Self { draft, ..self }
    }

    pub(super) fn answer(&self, status: u16) -> Answer {
        page::html(status, self)
    }

    /// The query that shows this too, or hides it.
    fn showing(&self, key: bool, body: bool) -> &'static str {
        match (key, body) {
            (false, false) => "",
            (true, false) => "?show=key",
            (false, true) => "?show=body",
            (true, true) => "?show=key+body",
        }
    }
}

fn stored(held: &Held, shows_body: bool) -> Option<Stored> {
    let result = &*held.record.result;
    let size = words::bytes(result.len() as u64);
    // Bodies keep their lines.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).split('\n').map(harmless).collect::<Vec<_>>().join("\n");
    match held.record.state {
        State::InFlight | State::Unknown => return None,
        State::NotKept => {
            let note = Note::decode(result).unwrap_or_default();
            let location = note.location.map(|location| ("location".to_owned(), harmless(&location)));
            let (status, headers) = (note.status, location.into_iter().collect());
            let (what, body, body_size) = ("a note of what was not kept", None, String::new());
            return Some(Stored { what, size, status, headers, body, body_size, is_cut: false });
        }
        State::Completed => {}
    }
    let (status, headers, body) = match Replay::of(result) {
        Ok(Replay { answer, trailers }) => {
            let lines = answer.headers.iter().chain(&trailers);
            let headers = lines.map(|(name, value)| (text(name), text(value))).collect();
            (Some(answer.status), headers, text(answer.body))
        }
        Err(_) if result.first() == Some(&JSON) => (None, vec![], text(&result[1..])),
        // Values of Python are read by Python.
        Err(_) => (None, vec![], result.get(1..).unwrap_or_default().escape_ascii().to_string()),
    };
    let (body_size, cut) = (words::bytes(body.len() as u64), body.floor_char_boundary(BODY_SHOWN));
    let is_cut = cut < body.len();
    let body = shows_body.then(|| body[..cut].to_owned());
    Some(Stored { what: described(result), size, status, headers, body, body_size, is_cut })
}

pub(super) async fn page(engine: &Idempotency, key: &str, request: &Request<'_>, site: &Site) -> Answer {
    let Some(key) = StorageKey::parse(key.as_bytes()) else { return Message::no_record(site) };
    let (held, now) = match engine.get(&key).await {
        Ok(Some(found)) => found,
        Ok(None) => return Message::no_record(site),
        Err(error) => return Message::store_failed(site, &error),
    };
    let asked = request.asked();
    let shown = asked.get("show");
    if !shown.is_empty() {
        tracing::info!("an operator ({}) was shown the {shown:?} of the record [{}]", site.operator(), key.id());
    }
    let story = Story::new(site, &key, &held, now, shown);
    match asked.get("did") {
        "resolve" => story.notice(Notice::Done("Resolved: every repeat gets the result below.")),
        _ => story,
    }
    .answer(200)
}
