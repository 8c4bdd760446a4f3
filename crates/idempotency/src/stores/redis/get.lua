-- Looks without touching.
-- KEYS[1]  the record
-- Answers false, or {record, life left in ms, clock in us}.
local held = redis.call('GET', KEYS[1])
if not held then
  return false
end
local time = redis.call('TIME')
return {held, redis.call('PTTL', KEYS[1]), string.format('%.0f', time[1] * 1000000 + time[2])}
