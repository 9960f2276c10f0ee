-- List what the runs of an agent store beside the data, such as locks and logs, before it is stored; or remove what is gone.
--
-- KEYS[1]   the list: names, scored with the ms since 1970 at which each was listed (sorted set)
-- ARGV[1]   '' to list names; or remove those that were listed longer ago than this many ms. Others may be stored soon
-- ARGV[2..] the names
-- Reply     1

local now, left = server_time(), ARGV[1]
for i = 2, #ARGV do
  if left == '' then
    redis.call('ZADD', KEYS[1], now, ARGV[i])
  else
    local at = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if at and at + left < tonumber(now) then redis.call('ZREM', KEYS[1], ARGV[i]) end
  end
end
return 1
