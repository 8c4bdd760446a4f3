SELECT outcome, idempotency.transaction_began() FROM idempotency.complete($1, $2, $3, $4, 0)
