-- Stands between waiters.lua and the single-flight scripts. Each namespace has a hash of its claims and errors:
--
-- field 'c' .. key  a claim: '<ms since 1970 at which it expires> <token> <state of the field when it was claimed>'
-- field 'e' .. key  the last failure: '<ms since 1970> <JSON about the error>', for the callers that waited for it
--
-- Deleting a key deletes both (remove.lua), so that a value computed from older data is not stored.

local ERROR_KEPT_MS = 10000
local SWEPT_FROM = 32
local COMPARED_BYTES = 1024

local function digits(ms)
  return string.format('%.0f', ms)
end

-- Returns a claim's expiry, field state and token; nothing if there is no claim, or it has expired.
local function computing(flight, field, now)
  local claim = call('HGET', flight, 'c' .. field)
  if not claim then return nil end
  local until_ms, token, from = match(claim, '^(%d+) (%S+) (.*)$')
  if not until_ms or tonumber(until_ms) <= now then return nil end
  return tonumber(until_ms), from, token
end

local function claim_for(flight, field, from, token, now, lock_ms)
  call('HSET', flight, 'c' .. field, digits(now + lock_ms) .. ' ' .. token .. ' ' .. from)
  if call('PTTL', flight) < lock_ms then call('PEXPIRE', flight, digits(lock_ms)) end
end

-- Deletes expired claims and old errors. Each claim checks a few random fields, so these stay a small part of the hash.
local function sweep(flight, now)
  if call('HLEN', flight) < SWEPT_FROM then return end
  local met = call('HRANDFIELD', flight, 4, 'WITHVALUES')
  for i = 1, #met, 2 do
    local at = tonumber(match(met[i + 1], '^%d+') or 0)
    if sub(met[i], 1, 1) == 'e' then at = at + ERROR_KEPT_MS end
    if at <= now then call('HDEL', flight, met[i]) end
  end
end

-- What tells a field's state from every other, so that a computed value replaces no write made meanwhile: '-' if the field
-- does not exist, else '<ms at which it expires, or -1> <info> <length> <beginning of the value>'. The info says when the
-- field was last written; the value tells apart writes of the same ms, and external ones.
local function state_of(data, info, field, value)
  if not value then return '-' end
  local reply = redis.pcall('HPEXPIRETIME', data, 'FIELDS', 1, field)
  local expires = reply.err and '-1' or digits(reply[1] or -1)
  local text = call('HGET', info, field) or ''
  return table.concat({expires, text, #value, sub(value, 1, COMPARED_BYTES)}, ' ')
end

-- Whether a field is as it was when it was claimed. A value that has only expired since then is no write.
local function unchanged(from, state, now)
  local expires = state == '-' and match(from, '^(%d+) ')
  return state == from or (expires and tonumber(expires) <= now)
end
