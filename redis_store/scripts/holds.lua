-- Prefix of a script that asks whether namespaces hold data.
--
-- EXISTS and HLEN count expired fields until the server removes them, and no command asks whether others exist.

local PAGES = 20
local fields_expire = not redis.pcall('HPTTL', KEYS[#KEYS], 'FIELDS', 1, 'field').err

-- Whether a hash has a field that has not expired. A random field nearly always decides it. It may itself be expired,
-- or missing where most have expired; then the hash is read page by page. After PAGES pages without a live field the reply
-- is 1: hiding data from a listing would be worse than listing an empty namespace.
local function holds(key)
  if not fields_expire then return redis.call('EXISTS', key) end
  local met = redis.pcall('HRANDFIELD', key)
  if type(met) == 'table' then return 1 end -- another type: reading the key will report it
  if met and redis.call('HEXISTS', key, met) == 1 then return 1 end
  if redis.call('EXISTS', key) == 0 then return 0 end
  local cursor = '0'
  for _ = 1, PAGES do
    local page, step = redis.pcall('HSCAN', key, cursor, 'COUNT', 500, 'NOVALUES'), 1 -- a value may have megabytes
    if page.err then
      page, step = redis.call('HSCAN', key, cursor, 'COUNT', 500), 2
    end
    for i = 1, #page[2], step do
      if redis.call('HEXISTS', key, page[2][i]) == 1 then return 1 end
    end
    cursor = page[1]
    if cursor == '0' then return 0 end
  end
  return 1
end
