-- Make sure for some time that writers of a namespace log their changes, for a reader of many pages. Unlike attach.lua it leaves
-- nothing that outlives the reader, and never shortens the life of a log.
--
-- KEYS[1]  change log (stream)
-- KEYS[2]  data hash; if it is passed and missing, no log is made
-- ARGV[1]  epoch for a log that has none, as hex digits
-- ARGV[2]  how long to keep it, in ms
-- Reply    id of the last entry; false if there is no log

local log = KEYS[1]
if redis.call('XLEN', log) == 0 then
  if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return false end
  redis.call('UNLINK', log)
  redis.call('XADD', log, '*', '', '{"n":0,"epoch":"' .. ARGV[1] .. '"}')
  redis.call('XGROUP', 'CREATE', log, 'epoch:' .. ARGV[1], '0')
  redis.call('PEXPIRE', log, ARGV[2])
else
  local left_ms = redis.call('PTTL', log)
  if left_ms >= 0 and left_ms < tonumber(ARGV[2]) then redis.call('PEXPIRE', log, ARGV[2]) end
end
return redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]
