//! Looking at every record: for operators.

use redis::{Cmd, Pipeline, Value};

use super::RedisStore;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::store::{Listed, Store};

/// How many keys a step looks at.
const STEP: usize = 1000;

impl RedisStore {
    /// What has no result yet, by SCAN: it holds nobody up, and sees every record that is there all the time.
    pub(super) async fn list(&self, most: usize) -> Result<Vec<Listed>, StoreError> {
        let (mut found, mut cursor) = (Vec::<Listed>::new(), String::from("0"));
        loop {
            let names: Vec<Vec<u8>>;
            (cursor, names) = self.scan(&cursor).await?;
            for key in self.unfinished_among(&names).await? {
                // Between the two looks it may have ended; and SCAN may tell a key twice.
                let Some((held, now)) = self.get(&key).await? else { continue };
                if held.record.state.is_unfinished() && !found.iter().any(|listed| listed.key == key) {
                    found.push(Listed { key, held, now });
                }
                if found.len() >= most {
                    return Ok(found);
                }
            }
            if cursor == "0" {
                return Ok(found);
            }
        }
    }

    async fn scan(&self, cursor: &str) -> Result<(String, Vec<Vec<u8>>), StoreError> {
        let mut scan = Cmd::new();
        scan.arg("SCAN").arg(cursor).arg("MATCH").arg(pattern(&self.prefix));
        scan.arg("COUNT").arg(STEP).arg("TYPE").arg("string");
        self.within_limit(async {
            let (number, mut connection) = self.connection.get().await?;
            let answer = scan.query_async(&mut connection).await;
            answer.map_err(|source| self.connection.failed(number, source, &self.all()))
        })
        .await
    }

    /// The keys of records of ours that are in flight or unknown.
    async fn unfinished_among(&self, names: &[Vec<u8>]) -> Result<Vec<StorageKey>, StoreError> {
        let keys: Vec<(&Vec<u8>, StorageKey)> =
            names.iter().filter_map(|name| Some((name, parse(name.strip_prefix(&self.prefix[..])?)?))).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut heads = Pipeline::new();
        for (name, _) in &keys {
            heads.cmd("GETRANGE").arg(name).arg(0).arg(4);
        }
        let heads: Vec<Value> = self
            .within_limit(async {
                let (number, mut connection) = self.connection.get().await?;
                let answer = heads.query_async(&mut connection).await;
                answer.map_err(|source| self.connection.failed(number, source, &self.all()))
            })
            .await?;
        let is_unfinished =
            |head: &Value| matches!(head, Value::BulkString(head) if head == b"idm1F" || head == b"idm1U");
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
