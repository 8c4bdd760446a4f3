//! What an operator sees of the file: its records, and how it is set up.

use rusqlite::params;

use super::file::File;
use crate::clock::wall_clock;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::Record;
use crate::store::{Cursor, Health, Listed, Listing, Page};

impl File {
    /// In the order of keys. Results are not read.
    pub(super) fn page(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = listing.after.as_ref().map(Cursor::key).transpose()?.map(|key| key.0);
        let states: String = listing.states.iter().map(|state| char::from(state.letter())).collect();
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT key, substr(record, 1, ?1), boot, lease_end, expires, length(record) FROM records \
                 WHERE (?2 IS NULL OR key > ?2) AND substr(record, 1, 4) = CAST('idm1' AS BLOB) AND instr(?3, CAST(substr(record, 5, 1) AS TEXT)) > 0 \
                 ORDER BY key LIMIT ?4",
            )?;
            let now = self.lease_clock();
            let most = i64::try_from(listing.most).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![Record::HEAD_MAX as i64, after, states, most], |row| {
                let key = StorageKey(row.get(0)?);
                let size = row.get::<_, i64>(5)?.unsigned_abs() as usize;
                Ok(self.look(row, &key, 1, Record::decode_head)?.map(|(held, left)| Listed {
                    key,
                    held,
                    now,
                    life_left: Some(left),
                    size,
                }))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = read().map_err(|source| self.failed(source))?;
        let mut records = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        let last = records.last().filter(|_| records.len() >= listing.most);
        let next = last.map(|last| Cursor::of_key(&last.key));
        records.retain(|found| found.life_left != Some(0));
        Ok(Page { records, next })
    }

    pub(super) fn health(&self) -> Result<Health, StoreError> {
        let text = |sql: &str| {
            let read = self.connection.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
            read.map_err(|source| self.failed(source)).map(|value| match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
        };
        let (journal, synchronous) = (text("PRAGMA journal_mode")?, text("PRAGMA synchronous")?);
        let mut health = Health::new("SQLite", rusqlite::version())
            .fact("file", self.path().display().to_string())
            .fact("journal_mode", &*journal)
            .fact("synchronous", if synchronous == "2" { "full" } else { &*synchronous });
        health.clock = Some(wall_clock());
        if journal != "wal" {
            health = health.warning(format!(
                "journal_mode is {journal}, not wal: writers wait for readers; is the file on a network file system?"
            ));
        }
        if synchronous.parse().unwrap_or(0) < 2 {
            health = health.warning("synchronous is not full: a loss of power may lose claims and results");
        }
        let is_read_only = self.connection.is_readonly("main").map_err(|source| self.failed(source))?;
        if is_read_only {
            health = health.warning("the file can't be written: every claim fails; look at its permissions");
        }
        Ok(health)
    }
}
