-- Starts the life of an attempt's own in-flight record anew; the lease ends where its life says.
-- KEYS[1]  the record          ARGV  1 the owner token   2 the life in ms
-- PEXPIRE alone: Redis takes it above maxmemory too. Answers 1, or 0 where the record is not the attempt's.
local head = redis.call('GETRANGE', KEYS[1], 4, 21)
if string.sub(head, 1, 1) == 'F' and string.sub(head, 3) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
