-- What the store needs in a database: one table, and one function for each operation. Version 1.
--
-- A later version only adds: a function keeps its name, its parameters and what it does, so that two versions of the
-- library work side by side. Times are microseconds since 1970, by this server's clock. Records are in their wire form,
-- of which the functions know: bytes 1-5 are 'idm1' and the state ('F' in flight, 'U' unknown), 7-22 the owner's token,
-- 23-38 the fence in decimal digits.
--
-- Every step that writes takes the key's advisory lock first, and never waits for it: who does not get it is told
-- 'busy'. A transaction of the user's may hold that lock for as long as it likes. A look takes no lock.

-- Two that run this at the same time come one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('idempotency.', 0));

CREATE SCHEMA IF NOT EXISTS idempotency;

CREATE TABLE IF NOT EXISTS idempotency.records (
    key bytea PRIMARY KEY,
    record bytea NOT NULL,
    lease_end bigint NOT NULL,
    expires bigint NOT NULL
);

-- For purge alone.
CREATE INDEX IF NOT EXISTS records_expires ON idempotency.records (expires);

CREATE OR REPLACE FUNCTION idempotency.clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT round(date_part('epoch', clock_timestamp()) * 1000000)::bigint
$$;

-- The key's lock, until the transaction ends. false: another transaction has it.
CREATE OR REPLACE FUNCTION idempotency.try_lock(this_key bytea) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_xact_lock(hashtextextended('idempotency.' || encode(this_key, 'hex'), 0))
$$;

-- The number of the lock that those share who wait for a key.
CREATE OR REPLACE FUNCTION idempotency.waiters_lock(this_key bytea) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT hashtextextended('idempotency.' || encode(this_key, 'hex'), 1)
$$;

-- Whether somebody waits for a key. If not, nobody can begin to until the transaction ends.
CREATE OR REPLACE FUNCTION idempotency.is_awaited(this_key bytea) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT NOT pg_try_advisory_xact_lock(idempotency.waiters_lock(this_key))
$$;

-- Whether a record is the claim of this token.
CREATE OR REPLACE FUNCTION idempotency.is_claim(record bytea, token bytea) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(record FROM 1 FOR 5) = 'idm1F'::bytea AND substring(record FROM 7 FOR 16) = token
$$;

-- Writes a record where none is, or over an expired one, or over exactly the lapsed one that was seen. false: another
-- record stands there.
CREATE OR REPLACE FUNCTION idempotency.put(this_key bytea, new bytea, ends bigint, until bigint, now bigint, seen bytea)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO idempotency.records AS held (key, record, lease_end, expires) VALUES (this_key, new, ends, until)
    ON CONFLICT (key) DO UPDATE SET record = new, lease_end = ends, expires = until
    WHERE held.expires <= now OR (held.record = seen AND held.lease_end <= now);
    RETURN FOUND;
END
$$;

-- Claims a key, or says what stands there. `lease` and `life` are durations; `seen` is the lapsed record to take over.
-- outcome: 'claimed' with the fence; 'stands' with the record that does; 'busy': another transaction is at this key;
-- 'stale': this transaction is REPEATABLE READ or SERIALIZABLE and began before another one wrote the record: it can't
-- see it, and only a new transaction can.
CREATE OR REPLACE FUNCTION idempotency.claim(
    this_key bytea, new bytea, lease bigint, life bigint, seen bytea,
    OUT outcome text, OUT fence bigint, OUT held bytea, OUT held_lease_end bigint, OUT now bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held_expires bigint;
    is_locked boolean := false;
BEGIN
    -- Under READ COMMITTED each statement sees what was committed before it began: the second look sees the record of
    -- whoever had the lock before.
    LOOP
        SELECT r.record, r.lease_end, r.expires INTO held, held_lease_end, held_expires
        FROM idempotency.records r WHERE r.key = this_key;
        now := idempotency.clock();
        IF held_expires > now AND NOT coalesce(held = seen AND held_lease_end <= now, false) THEN
            outcome := 'stands';
            RETURN;
        END IF;
        EXIT WHEN is_locked;
        is_locked := idempotency.try_lock(this_key);
        IF NOT is_locked THEN
            outcome := 'busy';
            RETURN;
        END IF;
    END LOOP;
    fence := now;
    IF held_expires > now THEN
        fence := greatest(now, encode(substring(seen FROM 23 FOR 16), 'escape')::bigint + 1);
    END IF;
    new := overlay(new PLACING convert_to(lpad(fence::text, 16, '0'), 'UTF8') FROM 23 FOR 16);
    IF current_setting('transaction_isolation') = 'read committed' THEN
        outcome := CASE WHEN idempotency.put(this_key, new, now + lease, now + life, now, seen) THEN 'claimed' ELSE 'busy' END;
    ELSE
        BEGIN
            outcome := CASE WHEN idempotency.put(this_key, new, now + lease, now + life, now, seen) THEN 'claimed' ELSE 'stale' END;
        EXCEPTION WHEN serialization_failure THEN
            outcome := 'stale';
        END;
    END IF;
END
$$;

-- A claim in a transaction of the application's, which goes on whatever is answered. outcome: as that of claim();
-- 'failed' with the SQLSTATE and the words of an error that is caught here, a timeout of the statement included.
-- began: when the transaction did.
CREATE OR REPLACE FUNCTION idempotency.claim_in_transaction(
    this_key bytea, new bytea, lease bigint, life bigint, seen bytea,
    OUT outcome text, OUT fence bigint, OUT held bytea, OUT held_lease_end bigint, OUT now bigint,
    OUT began bigint, OUT failure text
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT c.outcome, c.fence, c.held, c.held_lease_end, c.now INTO outcome, fence, held, held_lease_end, now
    FROM idempotency.claim(this_key, new, lease, life, seen) c;
    began := idempotency.transaction_began();
EXCEPTION
    WHEN serialization_failure THEN
        outcome := 'stale';
    WHEN query_canceled OR OTHERS THEN
        outcome := 'failed';
        failure := SQLSTATE || ' ' || SQLERRM;
END
$$;

-- When this transaction began: another one has begun at another time.
CREATE OR REPLACE FUNCTION idempotency.transaction_began() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT round(date_part('epoch', transaction_timestamp()) * 1000000)::bigint
$$;

-- Starts the lease and the life of the token's claim anew. outcome: 'done', 'refused', 'busy'.
CREATE OR REPLACE FUNCTION idempotency.renew(
    this_key bytea, token bytea, lease bigint, life bigint, OUT outcome text
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now bigint;
BEGIN
    IF NOT idempotency.try_lock(this_key) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    now := idempotency.clock();
    UPDATE idempotency.records r SET lease_end = now + lease, expires = now + life
    WHERE r.key = this_key AND r.expires > now AND idempotency.is_claim(r.record, token);
    outcome := CASE WHEN FOUND THEN 'done' ELSE 'refused' END;
END
$$;

-- Replaces the token's claim by its completed record; also an absent one while the clock has not reached
-- `recreate_until`. outcome: 'stored', now or before; 'refused' with what stands there, if anything; 'busy'.
-- awaited: somebody waits for the key, and wants to be told (idempotency.tell) after the commit.
CREATE OR REPLACE FUNCTION idempotency.complete(
    this_key bytea, token bytea, new bytea, life bigint, recreate_until bigint,
    OUT outcome text, OUT held bytea, OUT held_lease_end bigint, OUT now bigint, OUT awaited boolean
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    awaited := false;
    IF NOT idempotency.try_lock(this_key) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    now := idempotency.clock();
    UPDATE idempotency.records r SET record = new, lease_end = now, expires = now + life
    WHERE r.key = this_key AND r.expires > now AND idempotency.is_claim(r.record, token);
    IF FOUND THEN
        outcome := 'stored';
    ELSE
        SELECT r.record, r.lease_end INTO held, held_lease_end
        FROM idempotency.records r WHERE r.key = this_key AND r.expires > now;
        IF NOT FOUND AND now < recreate_until AND idempotency.put(this_key, new, now, now + life, now, NULL) THEN
            outcome := 'stored';
        ELSIF substring(held FROM 1 FOR 4) = 'idm1'::bytea AND substring(held FROM 7 FOR 16) = token THEN
            outcome := 'stored';
            RETURN;
        ELSE
            outcome := 'refused';
            RETURN;
        END IF;
    END IF;
    awaited := idempotency.is_awaited(this_key);
END
$$;

-- Removes the token's claim. outcome: 'done', 'refused', 'busy'.
CREATE OR REPLACE FUNCTION idempotency.release(
    this_key bytea, token bytea, OUT outcome text, OUT awaited boolean
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    awaited := false;
    IF NOT idempotency.try_lock(this_key) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    DELETE FROM idempotency.records r
    WHERE r.key = this_key AND r.expires > idempotency.clock() AND idempotency.is_claim(r.record, token);
    outcome := CASE WHEN FOUND THEN 'done' ELSE 'refused' END;
    awaited := outcome = 'done' AND idempotency.is_awaited(this_key);
END
$$;

-- An operator's word: replaces the record of exactly this fence (16 digits), or removes it where `new` is null, if it
-- is unknown or lapsed, or if `force` says any. outcome: 'done', 'refused', 'busy'.
CREATE OR REPLACE FUNCTION idempotency.resolve(
    this_key bytea, fence bytea, new bytea, life bigint, force boolean, OUT outcome text, OUT awaited boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now bigint;
BEGIN
    awaited := false;
    IF NOT idempotency.try_lock(this_key) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    now := idempotency.clock();
    PERFORM 1 FROM idempotency.records r
    WHERE r.key = this_key AND r.expires > now
        AND substring(r.record FROM 1 FOR 4) = 'idm1'::bytea AND substring(r.record FROM 23 FOR 16) = fence
        AND (force OR substring(r.record FROM 5 FOR 1) = 'U'::bytea
            OR (substring(r.record FROM 5 FOR 1) = 'F'::bytea AND r.lease_end <= now));
    IF NOT FOUND THEN
        outcome := 'refused';
        RETURN;
    END IF;
    IF new IS NULL THEN
        DELETE FROM idempotency.records r WHERE r.key = this_key;
    ELSE
        UPDATE idempotency.records r SET record = new, lease_end = now, expires = now + life WHERE r.key = this_key;
    END IF;
    outcome := 'done';
    awaited := idempotency.is_awaited(this_key);
END
$$;

-- What stands under a key.
CREATE OR REPLACE FUNCTION idempotency.get(
    this_key bytea, OUT held bytea, OUT held_lease_end bigint, OUT now bigint
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    now := idempotency.clock();
    SELECT r.record, r.lease_end INTO held, held_lease_end
    FROM idempotency.records r WHERE r.key = this_key AND r.expires > now;
END
$$;

-- Removes so many expired records at most; how many. Passes over those that are being claimed.
CREATE OR REPLACE FUNCTION idempotency.purge(most integer) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now bigint := idempotency.clock();
    removed bigint;
BEGIN
    -- By the place of a row, which stays where it is while it is locked.
    DELETE FROM idempotency.records WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM idempotency.records r WHERE r.expires <= now ORDER BY r.expires LIMIT most
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

-- Tells those who wait for a key. Never in the transaction that wrote the record: a commit with a notification holds a
-- lock that every other such commit waits for.
CREATE OR REPLACE FUNCTION idempotency.tell(this_key bytea) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('idempotency', encode(this_key, 'hex'))
$$;

CREATE OR REPLACE FUNCTION idempotency.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1 $$;
