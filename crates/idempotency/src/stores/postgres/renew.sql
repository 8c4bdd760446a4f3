SELECT outcome FROM idempotency.renew($1, $2, $3, $4)
