SELECT outcome, fence, held, held_lease_end, now, began, failure
FROM idempotency.claim_in_transaction($1, $2, $3, $4, $5)
