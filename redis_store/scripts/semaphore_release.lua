-- Release a slot of a semaphore, and keep it for the first in the queue; or leave the queue.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970; and 'n' (semaphore_acquire.lua) (sorted set)
-- KEYS[2]  queue (list)
-- KEYS[3]  the last try of each waiter, in ms since 1970, by its token (hash)
-- ARGV[1]  token
-- ARGV[2]  grace, in ms (queue.lua)
-- Reply    1; 0 if the token held no slot, or it had expired

local slots, queue, tries, token = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local until_ms = call('ZSCORE', slots, token)
local waiting = call('LLEN', queue)
local now = now_ms()
if waiting > 0 then
  call('HLEN', tries)
  remove(queue, tries, 0, token)
end

if not until_ms then return 0 end
call('ZREM', slots, token)
if waiting > 0 then
  local first, before = first_in(queue, tries, now - ARGV[2])
  remove(queue, tries, before, first or token)
  if first then
    give_slot(slots, first, now + ARGV[2])
    wake(slots, first)
  end
end
if call('ZCARD', slots) == 1 then call('ZREM', slots, 'n') end
return tonumber(until_ms) > now and 1 or 0
