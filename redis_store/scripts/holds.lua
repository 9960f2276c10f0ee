-- Stands before a script that asks whether namespaces hold data.

local PAGES = 20

-- Whether a hash has a field that has not expired. Those that have count in EXISTS and HLEN until they are reaped, and no
-- command asks for this: a random field answers nearly always, pages do where it does not. Beyond so many pages of nothing
-- the answer is yes, because data that is not listed would be worse than an empty namespace that is.
local function holds(key)
  local field = redis.call('HRANDFIELD', key)
  if field and redis.call('HEXISTS', key, field) == 1 then return 1 end
  if redis.call('HLEN', key) == 0 then return 0 end
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
