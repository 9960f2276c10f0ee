-- Release a slot of a semaphore, and keep it for the first in the queue; or leave the queue.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970 (sorted set)
-- KEYS[2]  queue (list)
-- ARGV[1]  token
-- ARGV[2]  grace, in ms (queue.lua)
-- Reply    1; 0 if the token held no slot, or it had expired
-- Errors   WRONGTYPE
--
-- The first write frees memory, so a full server accepts it and then the rest of the script.

local places, queue = KEYS[1], KEYS[2]
local token = ARGV[1]
local until_ms = call('ZSCORE', places, token)
call('LLEN', queue)
local now = now_ms()

call('LREM', queue, 0, token)
if not until_ms then return 0 end
call('ZREM', places, token)
local first = call('LPOP', queue)
if first then
  call('ZADD', places, string.format('%.0f', now + ARGV[2]), first)
  local last = call('ZRANGE', places, -1, -1, 'WITHSCORES')
  call('PEXPIREAT', places, last[2])
  wake(places, first)
end
return tonumber(until_ms) > now and 1 or 0
