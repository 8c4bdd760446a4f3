INSERT OR REPLACE INTO idempotency_results (key, record, expires) VALUES ($1, $2, $3)
