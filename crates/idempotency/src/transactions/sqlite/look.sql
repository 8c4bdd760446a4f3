SELECT record FROM idempotency_results WHERE key = $1
