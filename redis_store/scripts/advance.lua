-- Moves a consumer's cursor, and shows that the consumer lives.
--
-- KEYS  1 the consumer's lock   2 its cursors
-- ARGV  1 who asks   2 how long the lock holds without a sign of life, in ms   3.. namespaces and cursors, in turn;
--       an empty cursor is one to forget
-- Reply 1, or 0 where somebody else has become the consumer: then nothing is written
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server does this too: who consumes may be who frees it.

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
