-- Removes an attempt's own in-flight record, and tells who waits.
-- KEYS[1]  the record, and the channel      ARGV  1 the owner token
-- Answers 1, or 0 where there is no such record.
local head = redis.call('GETRANGE', KEYS[1], 4, 21)
if string.sub(head, 1, 1) == 'F' and string.sub(head, 3) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.pcall('PUBLISH', KEYS[1], '')
  return 1
end
return 0
