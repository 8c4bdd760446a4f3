SELECT idempotency.tell($1)
