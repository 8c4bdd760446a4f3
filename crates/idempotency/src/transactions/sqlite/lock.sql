UPDATE idempotency_clock SET time = max(time + 1, $1)
