-- Renew a lock, if this token holds it.
--
-- KEYS[1]  lock (string)
-- ARGV[1]  token
-- ARGV[2]  time to live, in ms
-- Reply    1; 0 if the token no longer holds the lock

local held = redis.call('GET', KEYS[1])
if not held or not string.find(held, '"owner":"' .. ARGV[1] .. '"', 1, true) then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
