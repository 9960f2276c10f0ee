-- Stands before the scripts of computing once: who computes the value of which key, in a hash for each namespace.
--
-- field 'c' .. key  '<ms at which the claim lapses> <what stood there> <token>' of the one who computes
--                   what stood there: '-' for nothing, else the ms at which it expires
-- field 'e' .. key  '<ms at which it failed> <JSON about the error>' of the last one who failed, for those who waited for him
--
-- Deleting a key takes both away (remove.lua), so that nobody stores what he computed from something older.

local call, match = redis.call, string.match

local ERROR_KEPT_MS = 10000
local SWEPT_FROM = 32

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function digits(ms)
  return string.format('%.0f', ms)
end

-- Who computes: until when, from what, and the token; nothing where nobody does, or he has not been heard of in time.
local function computing(flight, field, now)
  local claim = call('HGET', flight, 'c' .. field)
  if not claim then return nil end
  local until_ms, from, token = match(claim, '^(%d+) (%S+) (%S+)$')
  if not until_ms or tonumber(until_ms) <= now then return nil end
  return tonumber(until_ms), from, token
end

local function claim_for(flight, field, from, token, now, lock_ms)
  call('HSET', flight, 'c' .. field, digits(now + lock_ms) .. ' ' .. from .. ' ' .. token)
  if call('PTTL', flight) < lock_ms then call('PEXPIRE', flight, digits(lock_ms)) end
end

-- Takes away what nobody will ask for any more: with each claim a few that are met at random, so it stays a small part.
local function sweep(flight, now)
  if call('HLEN', flight) < SWEPT_FROM then return end
  local met = call('HRANDFIELD', flight, 4, 'WITHVALUES')
  for i = 1, #met, 2 do
    local at = tonumber(match(met[i + 1], '^%d+') or 0)
    if string.sub(met[i], 1, 1) == 'e' then at = at + ERROR_KEPT_MS end
    if at <= now then call('HDEL', flight, met[i]) end
  end
end

-- What of a field tells one value from the next without reading it: nothing, or when it expires.
local function identity(data, field)
  if call('HEXISTS', data, field) == 0 then return '-' end
  local reply = redis.pcall('HPEXPIRETIME', data, 'FIELDS', 1, field)
  return reply.err and '-1' or digits(reply[1] or -1)
end

-- Notes in a tag which field of which namespace carries it, until when; some that have expired go at the same time.
local function put_tag(tag, member, until_ms, now)
  local old = call('ZRANGEBYSCORE', tag, '-inf', digits(now), 'LIMIT', 0, 100)
  if #old > 0 then call('ZREM', tag, unpack(old)) end
  if until_ms == math.huge then
    call('ZADD', tag, '+inf', member)
    call('PERSIST', tag)
    return
  end
  local known = call('ZSCORE', tag, member)
  if not known or (known ~= 'inf' and until_ms > tonumber(known)) then call('ZADD', tag, digits(until_ms), member) end
  local last = call('ZRANGE', tag, -1, -1, 'WITHSCORES')[2]
  if last ~= 'inf' then call('PEXPIREAT', tag, digits(tonumber(last))) end
end

-- Tells those who wait that nobody computes a field's value any more. Who may not publish is not heard; they look again.
local function wake(flight, field)
  redis.pcall('PUBLISH', flight, field)
end
