CREATE TABLE IF NOT EXISTS records (
    key       BLOB PRIMARY KEY,    -- the storage key
    record    BLOB NOT NULL,       -- the record's wire form
    expires   INTEGER NOT NULL,    -- us since the Unix epoch
    boot      TEXT NOT NULL,       -- the boot that lease_end belongs to
    lease_end INTEGER NOT NULL     -- us since that boot
);
CREATE INDEX IF NOT EXISTS records_by_expiry ON records (expires);
CREATE TABLE IF NOT EXISTS fences (highest INTEGER NOT NULL); -- one row: no later claim gets a fence this low
INSERT INTO fences SELECT 0 WHERE NOT EXISTS (SELECT * FROM fences);
