SELECT outcome, awaited FROM idempotency.release($1, $2)
