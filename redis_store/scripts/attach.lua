-- Makes sure that a namespace has a log, so that writers tell what they do, and that it stays for a while.
--
-- KEYS  1 log stream   2 what the last watcher knew
-- ARGV  1 the epoch of a log that has to be made   2 how long to keep it unwatched, in ms
-- Reply {epoch, 1 where it was made here, the last entry, what the last watcher knew or false}
-- Errors  WRONGTYPE
--
-- The epoch is the name of a consumer group that nobody reads with: it stays when entries are trimmed, and goes with the log.

local log = KEYS[1]
local epoch, made = nil, 0
if redis.call('XLEN', log) == 0 then
  redis.call('UNLINK', log)
  redis.call('XADD', log, '*', '', '{"n":0,"epoch":"' .. ARGV[1] .. '"}')
  made = 1
else
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    epoch = epoch or string.match(group[2], '^epoch:(%x+)$')
  end
end
if not epoch then
  epoch = ARGV[1]
  redis.call('XGROUP', 'CREATE', log, 'epoch:' .. epoch, '0')
end
redis.call('PEXPIRE', log, ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {epoch, made, redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1], redis.call('GET', KEYS[2])}
