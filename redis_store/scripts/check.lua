-- Stands before a transaction that sets big values beside a script: fails where a part of it would, and stops it then.
--
-- A transaction is not rolled back, and an error in it does not keep its other commands from being carried out. So its keys
-- and the fifth one are watched, then this is run, then the transaction follows: where a check fails this changes the fifth,
-- and where somebody else changes one of the others meanwhile, what was checked may hold no more. Either way EXEC does nothing.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- KEYS  5 a key that is there for no longer than this script runs
-- Reply 1
-- Errors  WRONGTYPE, NOPERM

local passed, problem = pcall(function()
  call('HLEN', data)
  call('HLEN', info)
  local listed = call('SISMEMBER', registry, name)
  local watched = call('XLEN', log) > 0
  call('HMGET', info, 'field')
  call('TIME')
  if redis.pcall('HPTTL', data, 'FIELDS', 1, 'field').err then call('HEXISTS', data, 'field') end
  -- Without these three the transaction would be none. That does not stop it, so whoever may lack them runs this by itself first.
  must_be_allowed('WATCH', data)
  must_be_allowed('MULTI')
  must_be_allowed('EXEC')
  must_be_allowed('HSET', info, 'field', 'text')
  if listed == 0 then must_be_allowed('SADD', registry, name) end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
end)
if passed then return 1 end
call('HSET', KEYS[5], 'failed', '1')
call('UNLINK', KEYS[5])
-- What pcall gives is a table or the text alone, and the text would be a reply like any other.
return redis.error_reply(type(problem) == 'table' and problem.err or problem)
