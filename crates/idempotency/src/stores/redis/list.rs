//! Looking at every record: for operators.

use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Script, Value};

use super::node::Node;
use super::route::Used;
use super::{RedisStore, held, unexpected};
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::Record;
use crate::store::{Cursor, Listed, Listing, Page, Store};

const LOOK: &str = include_str!("look.lua");

/// How many keys a step looks at.
const STEP: usize = 1000;

/// How often the servers are looked at, where slots have moved meanwhile.
const MOST_LOOKS: u32 = 3;

/// Where a list has come to: which look it is, at the servers that had their slots as `layout` says, at which of them,
/// and how far its SCAN is.
#[derive(Clone)]
struct Place {
    look: u32,
    layout: u64,
    server: usize,
    scan: String,
}

impl Place {
    fn start(look: u32, layout: u64) -> Self {
        Self { look, layout, server: 0, scan: "0".into() }
    }

    fn cursor(&self) -> Cursor {
        Cursor::new(format!("{}.{:x}.{}.{}", self.look, self.layout, self.server, self.scan))
    }

    fn read(cursor: &Cursor) -> Result<Self, StoreError> {
        let read = || {
            let mut parts = cursor.as_str().split('.');
            let look = parts.next()?.parse().ok()?;
            let layout = u64::from_str_radix(parts.next()?, 16).ok()?;
            let server = parts.next()?.parse().ok()?;
            let scan = parts.next().filter(|scan| scan.parse::<u64>().is_ok())?.to_owned();
            parts.next().is_none().then_some(Self { look, layout, server, scan })
        };
        read().ok_or_else(|| cursor.unreadable())
    }
}

impl RedisStore {
    /// By SCAN on every server: it holds nobody up, and sees every record that is there all the time. Where slots have
    /// moved meanwhile, a record may have come to a server that was looked at before: once more.
    pub(super) async fn page(&self, listing: &Listing) -> Result<Page, StoreError> {
        let (mut nodes, layout) = self.route.primaries().await?;
        let mut place = match &listing.after {
            None => Place::start(1, layout),
            Some(cursor) => Place::read(cursor)?,
        };
        if place.layout != layout {
            place = Place::start(place.look + 1, layout);
        }
        let mut records = vec![];
        loop {
            while let Some(node) = nodes.get(place.server) {
                let names: Vec<Vec<u8>>;
                (place.scan, names) = self.scan(node, &place.scan).await?;
                if place.scan == "0" {
                    place.server += 1;
                }
                self.look_at(node, &names, listing, &mut records).await?;
                if records.len() >= listing.most {
                    return Ok(Page { records, next: Some(place.cursor()) });
                }
            }
            let layout = place.layout;
            (nodes, place.layout) = self.route.primaries().await?;
            if place.layout == layout || place.look >= MOST_LOOKS {
                return Ok(Page { records, next: None });
            }
            place = Place::start(place.look + 1, place.layout);
        }
    }

    async fn scan(&self, node: &Arc<Node>, cursor: &str) -> Result<(String, Vec<Vec<u8>>), StoreError> {
        let mut scan = Cmd::new();
        scan.arg("SCAN").arg(cursor).arg("MATCH").arg(pattern(&self.prefix));
        scan.arg("COUNT").arg(STEP).arg("TYPE").arg("string");
        let used = Used::default();
        self.within_limit(&used, async {
            let mut link = node.get().await?;
            used.note(node, &link);
            let answer = scan.query_async(&mut link.connection).await;
            answer.map_err(|source| node.failed(link.number, source, &self.all()))
        })
        .await
    }

    /// Adds what is wanted of these names.
    async fn look_at(
        &self,
        node: &Arc<Node>,
        names: &[Vec<u8>],
        listing: &Listing,
        records: &mut Vec<Listed>,
    ) -> Result<(), StoreError> {
        let keys: Vec<(&Vec<u8>, StorageKey)> = names
            .iter()
            .filter_map(|name| Some((name, StorageKey::parse(name.strip_prefix(&self.prefix[..])?)?)))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let states: Vec<u8> = listing.states.iter().map(|state| state.letter()).collect();
        let mut looks = Pipeline::new();
        looks.cmd("SCRIPT").arg("LOAD").arg(LOOK);
        let look = Script::new(LOOK);
        for (name, _) in &keys {
            looks.cmd("EVALSHA").arg(look.get_hash()).arg(1).arg(name).arg(&states[..]).arg(Record::HEAD_MAX);
        }
        let used = Used::default();
        let answers = self
            .within_limit(&used, async {
                let mut link = node.get().await?;
                used.note(node, &link);
                let answer = link.connection.req_packed_commands(&looks, 0, keys.len() + 1).await;
                answer.map_err(|source| node.failed(link.number, source, &self.all()))
            })
            .await?;
        for ((_, key), answer) in keys.into_iter().zip(answers.into_iter().skip(1)) {
            records.extend(match answer {
                Value::Nil => None,
                Value::Array(answer) => Some(self.listed(key, &answer)?),
                // Its slot may have moved: whoever has it says.
                _ => self.listed_elsewhere(key, listing).await?,
            });
        }
        Ok(())
    }

    /// Reads `{head, life left in ms, clock in us, size}`.
    fn listed(&self, key: StorageKey, answer: &[Value]) -> Result<Listed, StoreError> {
        let [Value::BulkString(head), Value::Int(left), clock, Value::Int(size)] = answer else {
            return Err(unexpected(&Value::Array(answer.to_vec())));
        };
        let record = Record::decode_head(head).map_err(|error| StoreError::foreign(self.shown(&key), error))?;
        let (held, now) = held(record, *left, clock);
        let life_left = (*left >= 0).then(|| left.unsigned_abs().saturating_mul(1000));
        Ok(Listed { key, held, now, life_left, size: size.unsigned_abs() as usize })
    }

    async fn listed_elsewhere(&self, key: StorageKey, listing: &Listing) -> Result<Option<Listed>, StoreError> {
        let Some((mut held, now)) = self.get(&key).await? else { return Ok(None) };
        if !listing.states.contains(&held.record.state) {
            return Ok(None);
        }
        let size = held.record.encoded_len();
        held.record.result = Arc::default();
        // At most: how long ago it was written is not asked for again.
        let life_left = Some(held.record.ttl.max(held.record.lease));
        Ok(Some(Listed { key, held, now, life_left, size }))
    }

    pub(super) fn all(&self) -> String {
        format!("{}*", String::from_utf8_lossy(&self.prefix))
    }
}

/// The pattern of every name with this prefix.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}
