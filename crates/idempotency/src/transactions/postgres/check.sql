SELECT (SELECT substring(p.prosrc FROM '[0-9]+')::bigint
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'idempotency' AND p.proname = 'schema_version') AS version,
    (SELECT count(*)
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'idempotency' AND p.proname = 'claim_in_transaction'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')) AS usable
