-- Results that commit together with what made them, beside an application's own tables.
CREATE TABLE IF NOT EXISTS idempotency_results (
    key     BLOB PRIMARY KEY,    -- the storage key
    record  BLOB NOT NULL,       -- when it expires, 8 bytes big endian, and the record's wire form
    expires INTEGER NOT NULL     -- us since the Unix epoch
);
CREATE INDEX IF NOT EXISTS idempotency_results_by_expiry ON idempotency_results (expires);
-- One row: the time at the last claim, which never goes back. No later claim gets a fence this low.
CREATE TABLE IF NOT EXISTS idempotency_clock (time INTEGER NOT NULL);
INSERT INTO idempotency_clock SELECT 0 WHERE NOT EXISTS (SELECT * FROM idempotency_clock);
