-- Follows prelude.lua and times.lua, and wraps the script that writes (with its own prelude) in a function: limits a namespace's keys.
--
-- ARGV   the script's own arguments, then for each namespace with a bound:
--          position of its data hash in KEYS, from 1 (registry, info and log follow it)
--          max_keys, at least 1
--          number of fields that follow, then these fields, which are not evicted
--        and as the last argument the number of arguments that describe bounds, this one not counted
-- Reply  {the script's own reply, number of keys that another call must still evict, bytes that were moved to evict others}; an
--        error reply as it is
--
-- The keys written longest ago should be evicted, but tracking their order would make every write slower. So the script
-- samples keys at random and evicts the oldest of the sample, as the server's own eviction does.

local SAMPLE = 10 -- sampled at least
local SAMPLE_OF_EACH = 3 -- sampled for each key to evict
local FIRST_ROUND, ROUND = 3, 250 -- evicted at once: few until it is known how long they are
local MOST = 1000 -- keys evicted by one call, during which the server does nothing else
local MOST_BYTES = 2097152 -- names and infos read by one call, about; values of FREED times as many bytes are deleted
local ROUND_BYTES = 262144 -- the same in one round, about: the last round says how many keys that is
local FREED = 128
local SMALL = 512 -- a server may keep a hash of up to this many fields as a list, which HSCAN returns whole
local MISSES = 3
local PAGE = 500

-- Removes the arguments about bounds from ARGV and returns the bounds.
local function take_bounds()
  local last = #ARGV
  local first = last - tonumber(ARGV[last])
  local bounds, at = {}, first
  while at < last do
    local bound = {at = tonumber(ARGV[at]), max_keys = tonumber(ARGV[at + 1]), count = tonumber(ARGV[at + 2]), stay = {}}
    for i = at + 3, at + 2 + bound.count do bound.stay[ARGV[i]] = true end
    bounds[#bounds + 1] = bound
    at = at + 3 + bound.count
  end
  for i = last, first, -1 do ARGV[i] = nil end
  return bounds
end

-- Makes the names of prelude.lua refer to a bound's namespace.
local function enter(bound)
  data, registry, info, log = unpack(KEYS, bound.at, bound.at + 3)
end

-- Raises NOPERM if keys may have to be evicted and the server's access rules forbid it.
local function must_be_allowed_to_evict(bound)
  enter(bound)
  if call('HLEN', data) + bound.count <= bound.max_keys then return end
  must_be_allowed('HDEL', data, 'field')
  must_be_allowed('HDEL', info, 'field')
  must_be_allowed('HMGET', info, 'field')
  must_be_allowed('HRANDFIELD', info, '1')
  must_be_allowed('HSCAN', info, '0')
  must_be_allowed('HSTRLEN', data, 'field')
  if call('XLEN', log) > 0 then must_be_allowed('XADD', log, '*', '', '') end
end

-- When a key was last written, in µs since 1970. A key without info comes from an external write, and is evicted first.
local function written_at(text)
  local _, last = times_in(text or '')
  return tonumber(last) or 0
end

-- Deletes up to `count` of the fields that were written longest ago, and returns how many, and the bytes that this has moved.
-- `met` is an array of fields and infos in turn.
local function evict_oldest(met, stay, count)
  local fields, ages, bytes, freed = {}, {}, 0, 0
  for i = 1, #met, 2 do
    local field = met[i]
    bytes = bytes + #field + #(met[i + 1] or '')
    if field ~= '' and not stay[field] and not ages[field] then -- '' is no key's name, see sequence.lua
      fields[#fields + 1] = field
      ages[field] = written_at(met[i + 1])
    end
  end
  if #fields == 0 then return 0, bytes end
  table.sort(fields, function(one, other) return ages[one] < ages[other] end)
  local last = 0
  while last < math.min(count, #fields) and freed < FREED * ROUND_BYTES do
    last = last + 1
    freed = freed + call('HSTRLEN', data, fields[last])
  end
  local deleted = call('HDEL', data, unpack(fields, 1, last))
  call('HDEL', info, unpack(fields, 1, last))
  if deleted > 0 and call('XLEN', log) > 0 then
    local told = {}
    for i = 1, last do told[2 * i - 1], told[2 * i] = fields[i], 'd' end
    tell(1, '', told)
  end
  return last, bytes + math.floor(freed / FREED)
end

-- Returns fields and their infos in one array.
local function with_infos(fields)
  local met = {}
  if #fields == 0 then return met end
  local texts = call('HMGET', info, unpack(fields))
  for i, field in ipairs(fields) do
    met[2 * i - 1] = field
    met[2 * i] = texts[i]
  end
  return met
end

-- Returns a random sample of fields and their infos. Sampling the info hash is cheaper: infos are short, values may not be.
-- In a big hash HRANDFIELD inspects many fields for each that it returns. There a page of HSCAN from a random cursor
-- replaces it: neighbours in a hash table are unrelated.
local function some(count)
  local known = call('HLEN', info)
  if known < call('HLEN', data) then return with_infos(call('HRANDFIELD', data, count)) end
  if known > SMALL then
    local cursor = string.format('%.0f', call('TIME')[2] * 2654435761 % 4294967296)
    local page = call('HSCAN', info, cursor, 'COUNT', count)[2]
    if #page > 0 then return page end
  end
  return call('HRANDFIELD', info, count, 'WITHVALUES')
end

-- Evicts page by page, for a namespace in which hardly any field may be evicted.
local function evict_by_pages(bound)
  local cursor = '0'
  repeat
    local page = redis.pcall('HSCAN', data, cursor, 'COUNT', PAGE, 'NOVALUES')
    local step = 1
    if page.err then
      page, step = call('HSCAN', data, cursor, 'COUNT', PAGE), 2
    end
    cursor = page[1]
    local fields = {}
    for i = 1, #page[2], step do fields[#fields + 1] = page[2][i] end
    local excess = call('HLEN', data) - bound.max_keys
    if excess > 0 then excess = excess - (evict_oldest(with_infos(fields), bound.stay, excess)) end
  until cursor == '0' or excess <= 0
end

local budget, moved = MOST, 0 -- keys that this call may still evict, and bytes that it has moved

-- Evicts the keys in excess of the bound, and returns how many remain to be evicted because the call has done enough.
-- An expired key counts until the server has removed it.
local function evict(bound)
  enter(bound)
  local misses, round = 0, FIRST_ROUND
  while true do
    local excess = call('HLEN', data) - bound.max_keys
    if excess <= 0 then return 0 end
    if budget <= 0 or moved > MOST_BYTES then return excess end
    local wanted = math.min(excess, budget, round)
    local met = some(math.max(SAMPLE, SAMPLE_OF_EACH * wanted))
    local gone, bytes = evict_oldest(met, bound.stay, wanted)
    budget, moved = budget - gone, moved + bytes
    round = math.max(1, math.min(ROUND, math.floor(ROUND_BYTES * #met / 2 / SAMPLE_OF_EACH / math.max(bytes, 1))))
    misses = gone > 0 and 0 or misses + 1
    if misses > MISSES then
      evict_by_pages(bound)
      return 0
    end
  end
end

local bounds = take_bounds()
for _, bound in ipairs(bounds) do must_be_allowed_to_evict(bound) end

local function write()
