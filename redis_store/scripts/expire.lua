-- Gives a key another time to live, or takes it away; the info goes with it.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- ARGV  5 field   6 time to live in ms from now, or '' for none
-- Reply 1; 0 where the field is not there, or has none that could be taken away
-- Errors  WRONGTYPE, NOPERM;  UNSUPPORTED hash field expiry: this server has none
--
-- The log tells of it as of a value to be fetched: every entry says anew when its keys expire.

local field, ttl_ms = ARGV[5], ARGV[6]

call('HLEN', data)
call('HLEN', info)
local watched = call('XLEN', log) > 0
local lives = redis.pcall('HPTTL', data, 'FIELDS', 1, field)
if lives.err then return redis.error_reply('UNSUPPORTED hash field expiry') end
local left_ms = lives[1] or -2
if left_ms == -2 or (ttl_ms == '' and left_ms == -1) then return 0 end
if watched then must_be_allowed('XADD', log, '*', '', '') end

local expiry = ''
if ttl_ms == '' then
  call('HPERSIST', data, 'FIELDS', 1, field)
  call('HPERSIST', info, 'FIELDS', 1, field)
else
  local time = call('TIME')
  local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ttl_ms)
  call('HPEXPIREAT', data, at, 'FIELDS', 1, field)
  call('HPEXPIREAT', info, at, 'FIELDS', 1, field)
  expiry = ',"x":' .. at
end
if watched then tell(1, expiry, {field, 'r'}, #field + 1) end
return 1
