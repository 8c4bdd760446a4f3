//! What an operator sees of the server: its records, and how it is set up.

use super::connect::{Parameters, Which};
use super::{PostgresStore, now, parameters, unexpected};
use crate::decide::Held;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::Record;
use crate::store::{Cursor, Health, Listed, Listing, Page};

impl PostgresStore {
    /// In the order of keys, over a connection of its own. Results are not sent.
    pub(super) async fn page(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = listing.after.as_ref().map(Cursor::key).transpose()?.map(|key| key.0.to_vec());
        let states: Vec<u8> = listing.states.iter().map(|state| state.letter()).collect();
        let (head, most) = (Record::HEAD_MAX as i32, i64::try_from(listing.most).unwrap_or(i64::MAX));
        let connection = self.upkeep().await?;
        let values: Parameters<'_> = parameters![head => INT4, after => BYTEA, states => BYTEA, most => INT8];
        let rows = self.pool.rows(&connection, Which::Other, &self.pool.statements.list, values).await?;
        let mut records = Vec::with_capacity(rows.len());
        let mut last = None;
        for row in &rows {
            let Ok(key) = row.get::<_, &[u8]>("key").try_into() else { return Err(unexpected(row)) };
            let (key, now) = (StorageKey(key), now(row));
            last = Some(key);
            let left = row.get::<_, i64>("expires").unsigned_abs().saturating_sub(now);
            if left > 0 {
                let record = self.decoded(&key, Record::decode_head(row.get("head")))?;
                let held = Held { record, lease_end: row.get::<_, i64>("lease_end").unsigned_abs() };
                let size = row.get::<_, i32>("size").unsigned_abs() as usize;
                records.push(Listed { key, held, now, life_left: Some(left), size });
            }
        }
        let next = last.filter(|_| rows.len() >= listing.most).map(|key| Cursor::of_key(&key));
        Ok(Page { records, next })
    }

    pub(super) async fn look(&self) -> Result<Health, StoreError> {
        let connection = self.upkeep().await?;
        let rows = self.pool.rows(&connection, Which::Other, &self.pool.statements.health, &[]).await?;
        let [row] = &rows[..] else { return Ok(Health::new("PostgreSQL", "")) };
        let text = |name| row.get::<_, &str>(name);
        let mut health = Health::new("PostgreSQL", text("version"))
            .fact("schema", format!("{} (version {})", self.pool.options.schema, row.get::<_, i32>("schema")))
            .fact("synchronous_commit", text("synchronous_commit"))
            .fact("fsync", text("fsync"));
        health.clock = Some(row.get::<_, i64>("clock").unsigned_abs());
        if row.get("is_standby") {
            health = health.warning("it is a standby and takes no writes; its name should lead to the primary");
        } else if text("read_only") == "on" {
            health = health.warning("it takes no writes (default_transaction_read_only): every claim fails");
        }
        if text("synchronous_commit") == "off" {
            health =
                health.warning("synchronous_commit is off: a crash of the server loses the last claims and results");
        }
        for name in ["fsync", "full_page_writes"] {
            if text(name) == "off" {
                health = health.warning(format!("{name} is off: a loss of power may lose or corrupt every record"));
            }
        }
        Ok(health)
    }
}
