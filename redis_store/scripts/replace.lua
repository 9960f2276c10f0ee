-- Set one field if it holds what is expected: data, registry, info and log entry, or nothing.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  value
-- ARGV[8]  time to live, in ms, or ''
-- ARGV[9]  'keep': an existing field keeps its expiry;  '': it does not
-- ARGV[10] 'absent' or 'equal'
-- ARGV[11] the expected bytes, with 'equal'
-- Reply    1; if nothing was written, 0 with 'absent', and {the stored bytes, or false} with 'equal', or 0 for big ones
-- Errors   UNSUPPORTED: the server has no hash field expiry

local there
if ARGV[10] == 'absent' then
  if call('HEXISTS', data, ARGV[6]) == 1 then return 0 end
else
  -- Bytes of another length are others; copying megabytes of them would keep the server from its other clients.
  local bytes = call('HSTRLEN', data, ARGV[6])
  if bytes ~= #ARGV[11] and bytes > 65536 then return 0 end
  there = call('HGET', data, ARGV[6])
  if there ~= ARGV[11] then return {there} end
end
return store(ARGV[6], ARGV[7], there, ARGV[8], ARGV[9] == 'keep')
