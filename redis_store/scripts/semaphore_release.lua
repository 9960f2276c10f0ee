-- Release a slot of a semaphore, and keep it for the first in the queue; or leave the queue.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970 (sorted set)
-- KEYS[2]  queue (list)
-- ARGV[1]  token
-- ARGV[2]  grace, in ms (queue.lua)
-- Reply    1; 0 if the token held no slot, or it had expired

local slots, queue, token = KEYS[1], KEYS[2], ARGV[1]
local until_ms = call('ZSCORE', slots, token)
call('LLEN', queue)
local now = now_ms()

call('LREM', queue, 0, token)
if not until_ms then return 0 end
call('ZREM', slots, token)
local first = call('LPOP', queue)
if first then
  give_slot(slots, first, now + ARGV[2])
  wake(slots, first)
end
return tonumber(until_ms) > now and 1 or 0
