SELECT key, substring(record FROM 1 FOR $1) AS head, octet_length(record) AS size, lease_end, expires, idempotency.clock() AS now
FROM idempotency.records
WHERE ($2::bytea IS NULL OR key > $2) AND substring(record FROM 1 FOR 4) = 'idm1'::bytea
    AND position(substring(record FROM 5 FOR 1) IN $3) > 0 ORDER BY key LIMIT $4
