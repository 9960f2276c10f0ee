-- Renew a slot of a semaphore, if the token holds it.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970 (sorted set)
-- ARGV[1]  token
-- ARGV[2]  time to live of the slot, in ms
-- Reply    1; 0 if the token no longer holds a slot
-- Errors   WRONGTYPE
--
-- The first write frees memory, so a full server accepts it and then the rest of the script.

local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not until_ms or tonumber(until_ms) <= now then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], last[2])
return 1
