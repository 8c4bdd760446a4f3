SELECT held, held_lease_end, now FROM idempotency.get($1)
