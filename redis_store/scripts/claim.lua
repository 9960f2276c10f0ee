-- Become the process that works as a consumer, or stay it.
--
-- KEYS[1]   the consumer's lock (string)
-- KEYS[2]   the consumer's cursors (hash)
-- ARGV[1]   token of the caller
-- ARGV[2]   time to live of the lock, in ms
-- ARGV[3..] namespaces whose cursors to return
-- Reply     array of cursors, false for a namespace without one; or false if another process is the consumer
-- Errors    WRONGTYPE
--
-- The first write frees memory, so the script also runs on a full server: the consumer may be what frees its memory.

local holder = redis.call('GET', KEYS[1])
redis.call('HLEN', KEYS[2])
if holder and holder ~= ARGV[1] then return false end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local cursors = {}
for i = 3, #ARGV do cursors[i - 2] = redis.call('HGET', KEYS[2], ARGV[i]) end
return cursors
