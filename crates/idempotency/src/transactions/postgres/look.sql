SELECT CASE WHEN idempotency.try_lock($1) THEN 1::bigint ELSE 0 END AS is_free, held, held_lease_end, now
FROM idempotency.get($2)
