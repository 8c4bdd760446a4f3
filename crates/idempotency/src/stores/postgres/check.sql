SELECT idempotency.schema_version() AS version, pg_is_in_recovery() AS is_standby,
    current_setting('transaction_read_only') = 'on' AS is_read_only, current_setting('server_version_num')::int AS server,
    coalesce(current_setting('idempotent.connection', true), '') AS number
