DO $$ BEGIN RAISE EXCEPTION 'the result of an idempotency key is not stored: this transaction must be rolled back'; END $$
