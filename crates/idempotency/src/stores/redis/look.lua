-- Looks at a record without its result, if it is in one of these states.
-- KEYS[1]  the record
-- ARGV     1 the letters of the states   2 in how many bytes all but the result is
-- Answers false, or {the record's first bytes, life left in ms, clock in us, bytes of the whole}.
local head = redis.call('GETRANGE', KEYS[1], 0, ARGV[2] - 1)
if string.sub(head, 1, 4) ~= 'idm1' or not string.find(ARGV[1], string.sub(head, 5, 5), 1, true) then
  return false
end
local size = #head
if size == tonumber(ARGV[2]) then
  size = #redis.call('GET', KEYS[1])
end
local time = redis.call('TIME')
return {head, redis.call('PTTL', KEYS[1]), string.format('%.0f', time[1] * 1000000 + time[2]), size}
