-- Run before a transaction that sets big values beside a script: fails if a part of the transaction would, and stops it.
--
-- A transaction is not rolled back, and an error does not keep its other commands from running. So the caller watches the
-- keys and KEYS[5], runs this script, and then sends the transaction. A failed check changes KEYS[5]; a concurrent write
-- changes another watched key, and then the check may no longer hold. In both cases EXEC does nothing.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- KEYS[5]  a key that exists only while this script runs
-- ARGV[5]  a field that must have no tags, or nothing
-- Reply    1; 0 if the field may have tags, and the transaction is stopped: set_beside.lua does not move their members

local passed, problem = pcall(function()
  call('HLEN', data)
  call('HLEN', info)
  listed = call('SISMEMBER', registry, name) == 1
  watched = call('XLEN', log) > 0
  call('HMGET', info, 'field')
  call('TIME')
  if redis.pcall('HPTTL', data, 'FIELDS', 1, 'field').err then call('HEXISTS', data, 'field') end
  -- Without these three rights the commands would run outside a transaction, and this script's failure would not stop them.
  -- So the caller first runs this script alone until the login is known to have the rights.
  must_be_allowed('WATCH', data)
  must_be_allowed('MULTI')
  must_be_allowed('EXEC')
  must_be_allowed('HSET', info, 'field', 'text')
  if not listed then must_be_allowed('SADD', registry, name) end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
  local old = ARGV[5] and call('HGET', info, ARGV[5])
  return old and find(old, ',"tags":{', 1, true)
end)
if passed and not problem then return 1 end
call('HSET', KEYS[5], 'failed', '1')
call('UNLINK', KEYS[5])
if passed then return 0 end
-- pcall returns a table or only the text, and a bare text would look like a normal reply.
return redis.error_reply(type(problem) == 'table' and problem.err or problem)
