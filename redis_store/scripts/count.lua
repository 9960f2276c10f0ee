-- Stands before scripts that count hits and computations of a namespace. A user has two hashes for them: of the even days since
-- 1970, by the server's clock, and of the odd ones. Each expires at the end of the next day, before its own next day begins.
--
-- field 'h' .. name  hits that processes have reported
-- field 'c' .. name  computations that were begun

local DAY_MS = 86400000
local MOST_FIELDS = 4000 -- of a hash: two for each namespace, as agents choose their names

local function count(even, odd, name, hits, computations, now)
  local day = math.floor(now / DAY_MS)
  local counts = day % 2 == 0 and even or odd
  if call('HLEN', counts) >= MOST_FIELDS and call('HEXISTS', counts, 'h' .. name) == 0 then return end
  call('HINCRBY', counts, 'h' .. name, hits)
  call('HINCRBY', counts, 'c' .. name, computations)
  if call('PTTL', counts) < 0 then call('PEXPIREAT', counts, string.format('%.0f', (day + 2) * DAY_MS)) end
end
