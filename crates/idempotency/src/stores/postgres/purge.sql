SELECT idempotency.purge($1) AS removed
