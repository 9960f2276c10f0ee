-- Renew a slot of a semaphore, if the token holds it.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970; and 'n' (semaphore_acquire.lua) (sorted set)
-- ARGV[1]  token
-- ARGV[2]  time to live of the slot, in ms
-- Reply    1; 0 if the token no longer holds a slot

local slots, token, now = KEYS[1], ARGV[1], now_ms()
local until_ms = call('ZSCORE', slots, token)
if not until_ms or tonumber(until_ms) <= now then return 0 end
call('ZREM', slots, token)
give_slot(slots, token, now + ARGV[2])
return 1
