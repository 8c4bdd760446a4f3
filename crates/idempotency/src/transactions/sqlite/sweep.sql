DELETE FROM idempotency_results
WHERE key IN (SELECT key FROM idempotency_results WHERE expires <= $1 AND key <> $2 LIMIT 16)
