SELECT pg_try_advisory_lock_shared(idempotency.waiters_lock($1)) AS is_held
