-- Lets a place of a semaphore be held on, if it still is.
--
-- KEYS  1 sorted set of those who have a place
-- ARGV  1 token   2 time to live in ms
-- Reply 1, or 0 where it is held no longer
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not until_ms or tonumber(until_ms) <= now then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], last[2])
return 1
