SELECT time, record FROM idempotency_clock LEFT JOIN idempotency_results ON key = $1
