-- Reads a value, or claims to compute it, or tells that somebody does.
--
-- KEYS  1 data hash   2 flight hash   3.. the tags that the value will carry
-- ARGV  1 field   2 token   3 how long the claim holds without a renewal, in ms
--       4 how long before it expires a value counts as stale, in ms, or ''
--       5 '1' where the value is to expire, ''
--       6 since when the caller waits for somebody who computes, in ms since 1970, or ''
--       7 what stands for the field in a tag
-- Reply {'value', bytes}; {'claimed'}; {'error', JSON about it} of somebody who failed while the caller waited;
--       {'busy', ms of the claim that are left, ms since 1970}
-- Errors  WRONGTYPE;  UNSUPPORTED hash field expiry: this server has none

local data, flight = KEYS[1], KEYS[2]
local field, token, lock_ms, stale_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if ARGV[5] == '1' then
  local reply = redis.pcall('HPTTL', data, 'FIELDS', 1, field)
  if reply.err and not string.find(reply.err, 'WRONGTYPE', 1, true) then
    return redis.error_reply('UNSUPPORTED hash field expiry')
  end
end

local value = call('HGET', data, field)
if value then
  local left_ms = stale_ms ~= '' and call('HPTTL', data, 'FIELDS', 1, field)[1] or -1
  if left_ms < 0 or left_ms > tonumber(stale_ms) then return {'value', value} end
end

local now = now_ms()
call('HLEN', flight)
for i = 3, #KEYS do call('ZCARD', KEYS[i]) end
if ARGV[6] ~= '' then
  local failed = call('HGET', flight, 'e' .. field)
  local at, about = match(failed or '', '^(%d+) (.*)$')
  if at and tonumber(at) >= tonumber(ARGV[6]) then return {'error', about} end
end
local until_ms = computing(flight, field, now)
if until_ms then
  if value then return {'value', value} end
  return {'busy', until_ms - now, now}
end

claim_for(flight, field, identity(data, field), token, now, lock_ms)
sweep(flight, now)
-- Already now, so that invalidating a tag also reaches what is being computed.
for i = 3, #KEYS do put_tag(KEYS[i], ARGV[7], now + lock_ms, now) end
return {'claimed'}
