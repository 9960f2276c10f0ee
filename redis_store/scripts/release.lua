-- Stops being the process that works as a consumer.
--
-- KEYS  1 the consumer's lock
-- ARGV  1 who asks
-- Reply 1 where it was

if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
