SELECT claimed.outcome, claimed.fence, claimed.held, claimed.held_lease_end, claimed.now
FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[])
    WITH ORDINALITY AS step (key, new, seen, lease, life, place),
    idempotency.claim(step.key, step.new, step.lease, step.life, step.seen) AS claimed
ORDER BY step.place
