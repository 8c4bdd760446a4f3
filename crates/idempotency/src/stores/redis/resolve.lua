-- An operator's word: replaces the record of exactly this fence, or removes it, and tells who waits.
-- KEYS[1]  the record, and the channel      ARGV  1 the fence in 16 digits   2 the new record, or ''   3 its life in ms
--                                                 4 '1': a live claim and a stored result too
-- Answers 1, or 0 where there is no such record, or it is neither unknown nor lapsed.
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 4) ~= 'idm1' or string.sub(held, 23, 38) ~= ARGV[1] then
  return 0
end
local state = string.sub(held, 5, 5)
if ARGV[4] ~= '1' and state ~= 'U' then
  -- Bytes 39 to 54 are lease and ttl in us; a claim has lapsed when its life has at most life - lease left.
  local function number(first)
    local bytes = {string.byte(held, first, first + 7)}
    local value = 0
    for _, byte in ipairs(bytes) do
      value = value * 256 + byte
    end
    return math.ceil(value / 1000)
  end
  local lease, ttl, left = number(39), number(47), redis.call('PTTL', KEYS[1])
  if state ~= 'F' or left == -1 or left > math.max(ttl, lease, 1) - lease then
    return 0
  end
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.pcall('PUBLISH', KEYS[1], '')
return 1
