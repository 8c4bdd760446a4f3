SELECT key, record, lease_end, idempotency.clock() AS now FROM idempotency.records
WHERE substring(record FROM 1 FOR 5) IN ('idm1F'::bytea, 'idm1U'::bytea) AND expires > idempotency.clock() LIMIT $1
