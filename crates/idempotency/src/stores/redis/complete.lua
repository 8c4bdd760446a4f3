-- Replaces an attempt's own in-flight record by its completed one, and tells who waits.
-- KEYS[1]  the record, and the channel      ARGV  1 the owner token   2 the completed record   3 its life in ms
--                                                 4 until when (us) an absent record is written too; 0: never
-- Answers 1 (stored, now or before), 0 (absent), or {record, life left in ms, clock in us} of what stands there.
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 7, 22) ~= ARGV[1] then
    local time = redis.call('TIME')
    return {held, redis.call('PTTL', KEYS[1]), string.format('%.0f', time[1] * 1000000 + time[2])}
  end
  if string.sub(held, 5, 5) ~= 'F' then
    return 1
  end
else
  local time = redis.call('TIME')
  if time[1] * 1000000 + time[2] >= tonumber(ARGV[4]) then
    return 0
  end
end
local stored = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if stored.err then
  -- Above maxmemory Redis refuses a script's first write if it may need memory, and none after it. PEXPIRE needs none,
  -- so that a completion is never refused for want of room: only a claim is.
  if held then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.pcall('PUBLISH', KEYS[1], '') -- a hint: where it is not permitted, waiters look by themselves
return 1
