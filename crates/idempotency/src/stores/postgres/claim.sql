SELECT outcome, fence, held, held_lease_end, now FROM idempotency.claim($1, $2, $4, $5, $3)
