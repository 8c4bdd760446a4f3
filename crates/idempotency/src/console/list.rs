//! The list: what is in flight, lapsed, unknown and done.

use std::collections::BTreeSet;

use askama::Template;

use super::find::{self, Found};
use super::page::{self, Site};
use super::request::{Fields, Request};
use crate::engine::Idempotency;
use crate::error::StoreError;
use crate::http::Answer;
use crate::record::State;
use crate::seen::{Named, Standing, harmless};
use crate::store::{Cursor, Listed, Listing};
use crate::words;

/// How many rows a page begins with, and how many more each "more" brings.
const ROWS: usize = 100;
/// The most records without a result that are looked at, and the most rows.
const MOST: usize = 2000;
/// The most records with a result that are looked at, where nobody asks for those alone.
const DONE: usize = 200;

/// What of the list is asked for.
struct Filter {
    state: String,
    operation: String,
    rows: usize,
    /// Where the part of the list before this one ended; empty for the first.
    after: String,
    /// Seconds until the browser asks again by itself, for one without JavaScript; 0: it does not.
    refresh: u32,
}

impl Filter {
    fn of(asked: &Fields) -> Self {
        Self {
            state: asked.get("state").to_owned(),
            operation: asked.get("operation").trim().to_owned(),
            rows: asked.get("rows").parse().unwrap_or(ROWS).clamp(1, MOST),
            after: asked.get("after").to_owned(),
            refresh: asked.get("refresh").parse().unwrap_or(0).min(3600),
        }
    }

    /// The query of this list in another state, or from another place on.
    fn query(&self, state: &str, rows: usize, after: &str, refresh: u32) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        for (name, value) in [("state", state), ("operation", &self.operation), ("after", after)] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        for (name, value, usual) in [("rows", rows, ROWS), ("refresh", refresh as usize, 0)] {
            if value != usual {
                query.append_pair(name, &value.to_string());
            }
        }
        query.finish()
    }

    /// A list, from the place on where it is asked for.
    fn listing(&self, of: [State; 2], is_asked_for: bool) -> Listing {
        let listing = Listing::of(of);
        if is_asked_for && !self.after.is_empty() { listing.after(Cursor::new(&*self.after)) } else { listing }
    }

    fn takes(&self, standing: Standing, operation: &str) -> bool {
        let is_asked_for = match &*self.state {
            "" => true,
            "completed" => matches!(standing, Standing::Completed | Standing::NotKept),
            state => standing.slug() == state,
        };
        is_asked_for && (self.operation.is_empty() || self.operation == operation)
    }
}

struct Tab {
    name: &'static str,
    slug: &'static str,
    count: String,
    query: String,
    is_current: bool,
}

struct Row {
    key: String,
    id: String,
    state: &'static str,
    slug: &'static str,
    operation: String,
    age: String,
    began: String,
    lease: String,
    kept: String,
    size: String,
}

/// The part of the list that is fetched anew.
struct Rows {
    tabs: Vec<Tab>,
    rows: Vec<Row>,
    /// Where there are more rows: the query that has them, and how many are hidden.
    more: Option<(String, usize)>,
    /// The query of what is behind this part of the list.
    next: Option<String>,
    /// The list ends before the store does.
    is_cut: bool,
    is_empty: bool,
    operations: BTreeSet<String>,
    at: String,
}

#[derive(Template)]
#[template(path = "console/list.html")]
struct ListPage<'a> {
    site: &'a Site,
    filter: &'a Filter,
    list: Rows,
    /// The record that was released just now.
    released: Option<String>,
    /// The queries of the page that asks again by itself, and of the one that does not.
    by_itself: String,
    by_hand: String,
}

#[derive(Template)]
#[template(path = "console/rows.html")]
struct RowsPage<'a> {
    site: &'a Site,
    list: Rows,
}

pub(super) async fn page(engine: &Idempotency, request: &Request<'_>, site: &Site) -> Answer {
    let asked = request.asked();
    let filter = Filter::of(&asked);
    let list = match read(engine, &filter).await {
        Ok(list) => list,
        Err(error) => return page::Message::store_failed(site, &error),
    };
    let id = asked.get("released");
    let is_id = id.len() == 12 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let released = is_id.then(|| id.to_owned());
    let by_itself = filter.query(&filter.state, filter.rows, &filter.after, 5);
    let by_hand = filter.query(&filter.state, filter.rows, &filter.after, 0);
    page::html(200, &ListPage { site, filter: &filter, list, released, by_itself, by_hand })
}

pub(super) async fn rows(engine: &Idempotency, request: &Request<'_>, site: &Site) -> Answer {
    match read(engine, &Filter::of(&request.asked())).await {
        Ok(list) => page::html(200, &RowsPage { site, list }),
        Err(error) => page::Message::store_failed(site, &error),
    }
}

async fn read(engine: &Idempotency, filter: &Filter) -> Result<Rows, StoreError> {
    let (is_done, is_open) = (filter.state == "completed", !["", "completed"].contains(&&*filter.state));
    let listing = filter.listing([State::InFlight, State::Unknown], is_open);
    let open = find::records(engine, listing, MOST).await?;
    let listing = filter.listing([State::Completed, State::NotKept], is_done);
    let done = find::records(engine, listing, if is_done { filter.rows.max(DONE) } else { DONE }).await?;
    let next = if is_done { done.next.clone() } else { open.next.clone().filter(|_| is_open) };
    let is_cut = next.is_none() && (open.next.is_some() || done.next.is_some());
    let (open_plus, done_plus) = (plus(&open), plus(&done));
    let mut found: Vec<_> =
        open.records.into_iter().chain(done.records).map(|found| (standing(&found), found)).collect();
    // What waits for a person first, the oldest first; of what is done the newest.
    found.sort_by_key(|(standing, found)| {
        let fence = found.held.record.fence;
        (*standing, if *standing < Standing::Completed { fence } else { u64::MAX - fence })
    });
    let count = |of: &[Standing]| found.iter().filter(|(standing, _)| of.contains(standing)).count();
    let of_open = |standing| format!("{}{open_plus}", count(&[standing]));
    let tab = |name, slug, count| Tab {
        name,
        slug,
        count,
        query: filter.query(slug, ROWS, "", filter.refresh),
        is_current: filter.state == slug,
    };
    let tabs = vec![
        tab("All", "", format!("{}{}", found.len(), if open_plus.is_empty() { done_plus } else { open_plus })),
        tab("Unknown", "unknown", of_open(Standing::Unknown)),
        tab("Lapsed", "lapsed", of_open(Standing::Lapsed)),
        tab("In flight", "in-flight", of_open(Standing::InFlight)),
        tab("Completed", "completed", format!("{}{done_plus}", count(&[Standing::Completed, Standing::NotKept]))),
    ];
    let is_empty = found.is_empty();
    let named = found
        .iter()
        .map(|(standing, found)| (*standing, found, harmless(Named::of(&found.held.record.label).operation)));
    let (mut operations, mut rows, mut hidden) = (BTreeSet::new(), vec![], 0);
    for (standing, found, operation) in named {
        if operations.len() < ROWS {
            operations.insert(operation.clone());
        }
        if filter.takes(standing, &operation) {
            if rows.len() < filter.rows {
                rows.push(row(standing, found, operation));
            } else {
                hidden += 1;
            }
        }
    }
    let more_rows = (filter.rows + ROWS).min(MOST);
    let more = (hidden > 0).then(|| (filter.query(&filter.state, more_rows, &filter.after, filter.refresh), hidden));
    let next = next.map(|next| filter.query(&filter.state, filter.rows, next.as_str(), filter.refresh));
    let at = words::time(crate::clock::wall_clock())[11..19].to_owned();
    Ok(Rows { tabs, rows, more, next, is_cut, is_empty, operations, at })
}

fn plus(found: &Found) -> &'static str {
    if found.next.is_some() { "+" } else { "" }
}

fn standing(found: &Listed) -> Standing {
    Standing::of(&found.held, found.now)
}

fn row(standing: Standing, found: &Listed, operation: String) -> Row {
    let record = &found.held.record;
    Row {
        key: found.key.to_string(),
        id: found.key.id(),
        state: standing.words(),
        slug: standing.slug(),
        operation,
        age: find::age(record.fence),
        began: words::time(record.fence),
        lease: find::lease(&found.held, found.now),
        kept: found.life_left.map_or_else(|| "–".into(), words::duration),
        size: words::bytes(found.size as u64),
    }
}
