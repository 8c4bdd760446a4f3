SELECT outcome, held, held_lease_end, now, awaited FROM idempotency.complete($1, $2, $3, $4, $5)
