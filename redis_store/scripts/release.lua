-- Stop being the process that works as a consumer.
--
-- KEYS[1]  the consumer's lock (string)
-- ARGV[1]  token of the caller
-- Reply    1; 0 if the caller was not the consumer

if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
