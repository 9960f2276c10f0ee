-- Save a consumer's cursors and renew its lock.
--
-- KEYS[1]   the consumer's lock (string)
-- KEYS[2]   the consumer's cursors (hash)
-- ARGV[1]   token of the caller
-- ARGV[2]   time to live of the lock, in ms
-- ARGV[3..] pairs of namespace and cursor; an empty cursor deletes the saved one
-- Reply     1; 0 if another process is the consumer now, and nothing was written
-- Errors    WRONGTYPE
--
-- The first write frees memory, so the script also runs on a full server: the consumer may be what frees its memory.

local holder = redis.call('GET', KEYS[1])
redis.call('HLEN', KEYS[2])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
