//! Looking at every record: for operators.

use std::collections::HashSet;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};

use super::RedisStore;
use super::node::Node;
use super::route::Used;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::store::{Listed, Store};

/// How many keys a step looks at.
const STEP: usize = 1000;

/// How often the servers are looked at, where slots have moved meanwhile.
const MOST_LOOKS: usize = 3;

impl RedisStore {
    /// What has no result yet, by SCAN on every server: it holds nobody up, and sees every record that is there all the
    /// time. Where slots have moved meanwhile, a record may have come to a server that was looked at before: once more.
    pub(super) async fn list(&self, most: usize) -> Result<Vec<Listed>, StoreError> {
        let (mut found, mut seen) = (vec![], HashSet::new());
        let (mut nodes, mut layout) = self.route.primaries().await?;
        for _ in 0..MOST_LOOKS {
            for node in &nodes {
                self.list_on(node, most, &mut found, &mut seen).await?;
            }
            let before = layout;
            (nodes, layout) = self.route.primaries().await?;
            if layout == before || found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    async fn list_on(
        &self,
        node: &Arc<Node>,
        most: usize,
        found: &mut Vec<Listed>,
        seen: &mut HashSet<StorageKey>,
    ) -> Result<(), StoreError> {
        let mut cursor = String::from("0");
        while found.len() < most {
            let names: Vec<Vec<u8>>;
            (cursor, names) = self.scan(node, &cursor).await?;
            for key in self.unfinished_among(node, &names).await? {
                // Between the two looks it may have ended; and SCAN may tell a key twice.
                let Some((held, now)) = self.get(&key).await? else { continue };
                if held.record.state.is_unfinished() && found.len() < most && seen.insert(key) {
                    found.push(Listed { key, held, now });
                }
            }
            if cursor == "0" {
                break;
            }
        }
        Ok(())
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

    /// The keys of records of ours that are in flight or unknown, or of which this server does not say: they may have
    /// moved.
    async fn unfinished_among(&self, node: &Arc<Node>, names: &[Vec<u8>]) -> Result<Vec<StorageKey>, StoreError> {
        let keys: Vec<(&Vec<u8>, StorageKey)> =
            names.iter().filter_map(|name| Some((name, parse(name.strip_prefix(&self.prefix[..])?)?))).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut heads = Pipeline::new();
        for (name, _) in &keys {
            heads.cmd("GETRANGE").arg(name).arg(0).arg(4);
        }
        let used = Used::default();
        let heads = self
            .within_limit(&used, async {
                let mut link = node.get().await?;
                used.note(node, &link);
                let answer = link.connection.req_packed_commands(&heads, 0, keys.len()).await;
                answer.map_err(|source| node.failed(link.number, source, &self.all()))
            })
            .await?;
        let is_unfinished = |head: &Value| match head {
            Value::BulkString(head) => head == b"idm1F" || head == b"idm1U",
            Value::ServerError(_) => true,
            _ => false,
        };
        let pairs = keys.into_iter().zip(heads);
        Ok(pairs.filter(|(_, head)| is_unfinished(head)).map(|((_, key), _)| key).collect())
    }

    fn all(&self) -> String {
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

/// The key whose hexadecimal form this is.
fn parse(name: &[u8]) -> Option<StorageKey> {
    let digits = std::str::from_utf8(name).ok().filter(|name| name.len() == 64 && name.is_ascii())?;
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(StorageKey(key))
}
