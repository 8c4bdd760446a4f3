SELECT current_setting('server_version') AS version, idempotency.schema_version() AS schema, idempotency.clock() AS clock,
    pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') AS read_only,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
