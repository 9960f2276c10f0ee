-- Lets a lock live on, if this token still holds it.
--
-- KEYS  1 lock string
-- ARGV  1 token   2 time to live in ms
-- Reply 1, or 0 where it is held no longer
-- Errors  WRONGTYPE

local held = redis.call('GET', KEYS[1])
if not held or not string.find(held, '"owner":"' .. ARGV[1] .. '"', 1, true) then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
