SELECT completed.outcome, completed.held, completed.held_lease_end, completed.now, completed.awaited
FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[])
    WITH ORDINALITY AS step (key, token, new, life, recreate_until, place),
    idempotency.complete(step.key, step.token, step.new, step.life, step.recreate_until) AS completed
ORDER BY step.place
