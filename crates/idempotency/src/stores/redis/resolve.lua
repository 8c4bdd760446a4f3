-- An operator's word: replaces the record of exactly this fence, or removes it, and tells who waits.
-- KEYS[1]  the record, and the channel      ARGV  1 the fence in 16 digits   2 the new record, or ''   3 its life in ms
-- Answers 1, or 0 where there is no such record.
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 4) ~= 'idm1' or string.sub(held, 23, 38) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.pcall('PUBLISH', KEYS[1], '')
return 1
