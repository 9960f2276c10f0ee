-- Make sure that a namespace has a change log, so that writers append to it, and postpone the log's expiry.
--
-- KEYS[1]  change log (stream)
-- KEYS[2]  state saved by the last watcher (string)
-- ARGV[1]  epoch for a log that has none, as hex digits
-- ARGV[2]  how long to keep the log unwatched, in ms
-- Reply    {epoch, 1 if the log was created here or 0, the last entry, the last watcher's state or false}
--
-- The epoch is the name of a consumer group that nothing reads with. It survives trimming, and is deleted with the log.

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
