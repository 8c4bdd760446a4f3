-- Claims a key, or says what stands there. One key, one step.
-- KEYS[1]  the record
-- ARGV     1 the new record, whose fence this gives   2 its life in ms
--          3 the lapsed record to take over, if any   4 it has lapsed when its life has at most this many ms left
-- Answers the claimed fence as a number, the record alone where it is not in flight, or
-- {record, life left in ms, clock in us}; a life of -1 never ends (somebody has made the key PERSIST): it is live.
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 5, 5) ~= 'F' then
  return held
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fence = now
if held then
  local left = redis.call('PTTL', KEYS[1])
  if held ~= ARGV[3] or left == -1 or left > tonumber(ARGV[4]) then
    return {held, left, string.format('%.0f', now)}
  end
  fence = math.max(now, tonumber(string.sub(held, 23, 38)) + 1)
end
-- '%.0f': Lua would write a number of this size as 1.7e+15.
local record = string.sub(ARGV[1], 1, 22) .. string.format('%016.0f', fence) .. string.sub(ARGV[1], 39)
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
return fence
