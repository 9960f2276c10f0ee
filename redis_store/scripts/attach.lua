-- Make sure that a namespace has a change log, so that writers append to it, and postpone the log's expiry.
--
-- KEYS[1]  change log (stream)
-- KEYS[2]  state saved by the last watcher (string)
-- KEYS[3]  data hash
-- ARGV[1]  epoch for a log that has none, as hex digits
-- ARGV[2]  how long to keep the log unwatched, in ms
-- ARGV[3]  the same for a blank log, or '' to keep it as long as others
-- Reply    {epoch, 1 if the log was created here or 0, the last entry, the last watcher's state or false, 1 if the log is blank or 0}
--
-- The epoch is the name of a consumer group that nothing reads with. It survives trimming, and is deleted with the log.
-- A log is blank if nothing was ever written while it was there, and nothing is there now.

local log = KEYS[1]
local epoch, made, blank = nil, 0, redis.call('EXISTS', KEYS[3]) == 0
local length = redis.call('XLEN', log)
if length == 0 then
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
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
blank = blank and length <= 1 and string.find(last[2][2] or '', '^{"n":0,"epoch":') ~= nil
if not blank or ARGV[3] == '' then
  redis.call('PEXPIRE', log, ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
elseif redis.call('PTTL', log) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', log, ARGV[3])
end
return {epoch, made, last, redis.call('GET', KEYS[2]), blank and 1 or 0}
