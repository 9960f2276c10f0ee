-- Write fields of one or more namespaces if the compared fields hold what is expected: all of it, or nothing.
--
-- KEYS      five for each namespace, see prelude.lua and remove.lua
-- ARGV[1]   the first namespace's name
-- ARGV[2-5] see prelude.lua and info_text.lua
-- ARGV[6]   id of the transaction
-- ARGV[7]   number of comparisons
-- ARGV[8..] the names of all namespaces;
--           then four for each comparison: namespace from 0, field, 'is' or 'absent', the expected bytes;
--           then five for each write: namespace from 0, field, 'set' or 'delete', value, time to live in ms or ''
-- Reply     1; or {n} if comparison n, from 0, failed, and nothing was written
-- Errors    WRONGTYPE, NOPERM;  UNSUPPORTED: the server has no hash field expiry
--
-- All comparisons come first, then all checks, then the writes. Sets precede deletes, because a full server may refuse them.

local INLINE_BYTES = 65536

local tx, compared = ARGV[6], tonumber(ARGV[7])
local places = #KEYS / 5
local FIRST_COMPARED = 8 + places
local FIRST_WRITE = FIRST_COMPARED + 4 * compared

-- Makes the names of prelude.lua and remove.lua refer to a namespace.
local function enter(place)
  data, registry, info, log, flight = unpack(KEYS, 5 * place + 1, 5 * place + 5)
  name = ARGV[8 + place]
end

for i = 0, compared - 1 do
  local at = FIRST_COMPARED + 4 * i
  enter(tonumber(ARGV[at]))
  local value = call('HGET', data, ARGV[at + 1])
  if ARGV[at + 2] == 'is' then
    if value ~= ARGV[at + 3] then return {i} end
  elseif value then
    return {i}
  end
end

local plans = {}
local now = server_time()
for at = FIRST_WRITE, #ARGV, 5 do
  local place, field, ttl_ms = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 4]
  enter(place)
  local plan = plans[place]
  if not plan then
    plan = {sets = {}, deletes = {}, asked = {}, entries = {}, entry_of = {}}
    call('HLEN', data)
    plan.listed = look_around()
    plan.watched, plan.computing = look()
    plans[place] = plan
  end
  if ARGV[at + 2] == 'set' then
    if ttl_ms ~= '' and not expiry_of(field) then return unsupported() end
    must_be_allowed_to_put(expiry_after(now, ttl_ms), plan.listed, plan.watched)
    local old = call('HEXISTS', data, field) == 1 and call('HGET', info, field) or nil
    plan.sets[#plan.sets + 1] = {field, ARGV[at + 3], expiry_after(now, ttl_ms), info_text(now, old)}
  else
    plan.asked[#plan.asked + 1] = field
    if call('HEXISTS', data, field) == 1 then
      must_be_allowed_to_remove(plan.watched)
      plan.deletes[#plan.deletes + 1] = field
    end
  end
end

-- Adds to a plan's log entry. An entry has one expiry, so there is one entry for each expiry.
local function note(plan, expires, events, ...)
  local entry = plan.entry_of[expires]
  if not entry then
    entry = {expires = expires, events = 0, bytes = 0, told = {}}
    plan.entry_of[expires] = entry
    plan.entries[#plan.entries + 1] = entry
  end
  entry.events = entry.events + events
  for _, part in ipairs({...}) do
    entry.told[#entry.told + 1] = part
    entry.bytes = entry.bytes + #part
  end
end

for place, plan in pairs(plans) do
  enter(place)
  local inline_bytes = 0
  for _, set in ipairs(plan.sets) do
    local field, value, expires, text = unpack(set)
    local events = put(field, value, text, expires, plan.listed)
    plan.listed = true
    local news = inline_bytes + #value <= INLINE_BYTES and news_of(value) or 'r'
    inline_bytes = inline_bytes + #news
    note(plan, expires, events, field, news)
  end
end
for place, plan in pairs(plans) do
  enter(place)
  if plan.computing and #plan.asked > 0 then forget(plan.asked, 1) end
  if #plan.deletes > 0 then
    note(plan, '', remove(plan.deletes, 1, #plan.deletes))
    for _, field in ipairs(plan.deletes) do note(plan, '', 0, field, 'd') end
  end
  if plan.watched then
    local parts = #plan.entries
    for part, entry in ipairs(plan.entries) do
      local part_of = parts > 1 and '"tx":["' .. tx .. '",' .. part .. ',' .. parts .. '],' or ''
      tell(entry.events, expiry_told(entry.expires), entry.told, entry.bytes, part_of)
    end
  end
end
return 1
