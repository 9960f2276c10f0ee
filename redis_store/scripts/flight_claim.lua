-- Read a value, or claim to compute it, or report that another caller computes it.
--
-- KEYS[1]   data hash
-- KEYS[2]   info hash
-- KEYS[3]   flight hash (flight.lua)
-- KEYS[4]   hash of the even days' counts (count.lua)
-- KEYS[5]   hash of the odd days' counts
-- KEYS[6..] the tags that the value will carry (sorted sets)
-- ARGV[1]   field
-- ARGV[2]   token
-- ARGV[3]   time to live of the claim, in ms
-- ARGV[4]   how long before its expiry a value counts as stale, in ms, or ''
-- ARGV[5]   '1' if the value is to expire, or ''
-- ARGV[6]   when the caller began to wait for another caller's computation, in ms since 1970, or ''
-- ARGV[7]   the key's member of a tag
-- ARGV[8]   limit of the value, in bytes: it is copied
-- ARGV[9]   the namespace's name
-- ARGV[10]  hits of the namespace to count, if the claim is made
-- Reply     {'value', bytes}; {'big'} for a value over the limit, stale or not
--           {'claimed'}
--           {'error', JSON about the error} if another caller failed while this one waited
--           {'busy', ms until the other claim expires, the server's clock in ms since 1970}
-- Errors    UNSUPPORTED: the server has no hash field expiry

local data, info, flight = KEYS[1], KEYS[2], KEYS[3]
local field, token, lock_ms, stale_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if call('HSTRLEN', data, field) > tonumber(ARGV[8]) then return {'big'} end
local value = call('HGET', data, field)
if ARGV[5] == '1' and redis.pcall('HPTTL', data, 'FIELDS', 1, field).err then
  return redis.error_reply('UNSUPPORTED hash field expiry')
end
if value then
  local left_ms = stale_ms ~= '' and call('HPTTL', data, 'FIELDS', 1, field)[1] or -1
  if left_ms < 0 or left_ms > tonumber(stale_ms) then return {'value', value} end
end

local now = now_ms()
call('HLEN', flight)
for i = 6, #KEYS do call('ZCARD', KEYS[i]) end
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

claim_for(flight, field, state_of(data, info, field, value), token, now, lock_ms)
sweep(flight, now)
-- Tagged already now, so that invalidating a tag also reaches a value being computed.
for i = 6, #KEYS do tag(KEYS[i], ARGV[7], digits(now + lock_ms), digits(now)) end
if #KEYS > 5 then pcall(sweep_tags, registry_of(KEYS[6]), #KEYS - 5, digits(now)) end
pcall(count, KEYS[4], KEYS[5], ARGV[9], ARGV[10], 1, now) -- the claim holds, whatever stands in the way of the counts
return {'claimed'}
