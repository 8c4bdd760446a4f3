-- A write that replicas get after every write before it, so that one WAIT for it is one for all of them.
-- KEYS[1]  ours alone      ARGV  1 its life in ms
-- Answers 1.
if redis.pcall('SET', KEYS[1], '', 'PX', ARGV[1]).err then
  -- Above maxmemory Redis refuses a script's first write if it may need memory, and none after it.
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
end
return 1
