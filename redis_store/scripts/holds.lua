-- Stands before a script that asks whether namespaces hold data.
--
-- Fields that have expired count in EXISTS and HLEN until they are reaped, and no command asks whether others are there.

local PAGES = 20

local function single_fields_expire(key)
  return not redis.pcall('HPTTL', key, 'FIELDS', 1, 'field').err
end

-- Whether a hash whose fields may expire has one that has not. A random field answers nearly always (it may be an expired one
-- itself, or be missing where most have expired); where it does not, pages do. Beyond so many pages of nothing the answer is
-- yes, because data that is not listed would be worse than an empty namespace that is.
local function holds_live(key)
  local met = redis.pcall('HRANDFIELD', key, 1) or {}
  if met.err then return 1 end -- another type: reading it will say so
  if met[1] and redis.call('HEXISTS', key, met[1]) == 1 then return 1 end
  if redis.call('EXISTS', key) == 0 then return 0 end
  local cursor = '0'
  for _ = 1, PAGES do
    local page = redis.call('HSCAN', key, cursor, 'COUNT', 500)
    for i = 1, #page[2], 2 do
      if redis.call('HEXISTS', key, page[2][i]) == 1 then return 1 end
    end
    cursor = page[1]
    if cursor == '0' then return 0 end
  end
  return 1
end

local function holds_any(key)
  return redis.call('EXISTS', key)
end
