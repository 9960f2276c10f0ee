-- Becomes, or stays, the process that works as a consumer.
--
-- KEYS  1 the consumer's lock   2 its cursors
-- ARGV  1 who asks   2 how long the lock holds without a sign of life, in ms   3.. namespaces whose cursors to tell
-- Reply the cursors, each false where there is none; or false where somebody else is the consumer
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server does this too: who consumes may be who frees it.

local holder = redis.call('GET', KEYS[1])
redis.call('HLEN', KEYS[2])
if holder and holder ~= ARGV[1] then return false end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local cursors = {}
for i = 3, #ARGV do cursors[i - 2] = redis.call('HGET', KEYS[2], ARGV[i]) end
return cursors
