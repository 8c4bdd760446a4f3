SELECT outcome, awaited FROM idempotency.resolve($1, $2, $3, $4, $5)
