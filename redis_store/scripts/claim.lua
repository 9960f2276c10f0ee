-- Become the process that works as a consumer, or stay it: renew its lock, and read or save its cursors.
--
-- KEYS[1]   the consumer's lock (string)
-- KEYS[2]   the consumer's cursors (hash)
-- ARGV[1]   token of the caller
-- ARGV[2]   time to live of the lock, in ms
-- ARGV[3]   time to live of the cursors, in ms
-- ARGV[4..] pairs of namespace and cursor: '?' reads the saved one, '' deletes it, any other text is saved
-- Reply     array of the cursors that were read, false for a namespace without one; or false if another process is the
--           consumer, and nothing was written
--
-- The first write frees memory: the consumer may be what makes room on a full server.

local holder = call('GET', KEYS[1])
call('HLEN', KEYS[2])
if holder and holder ~= ARGV[1] then return false end
call('UNLINK', KEYS[1])
call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local found = {}
for i = 4, #ARGV, 2 do
  local namespace, cursor = ARGV[i], ARGV[i + 1]
  if cursor == '?' then
    found[#found + 1] = call('HGET', KEYS[2], namespace)
  elseif cursor == '' then
    call('HDEL', KEYS[2], namespace)
  else
    call('HSET', KEYS[2], namespace, cursor)
  end
end
call('PEXPIRE', KEYS[2], ARGV[3])
return found
