SELECT pg_advisory_unlock_shared(idempotency.waiters_lock(key)) FROM unnest($1) AS keys (key)
