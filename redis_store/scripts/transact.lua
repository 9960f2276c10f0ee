-- Write fields of one or more namespaces if the compared fields hold what is expected: all of it, or nothing.
--
-- KEYS      five for each namespace, see prelude.lua and remove.lua
-- ARGV[1]   the first namespace's name
-- ARGV[2-5] see prelude.lua and info_text.lua
-- ARGV[6]   id of the transaction
-- ARGV[7]   number of comparisons
-- ARGV[8..] the names of all namespaces;
--           then four for each comparison: namespace from 0, field, 'is' or 'absent', the expected bytes; or 'version', the
--           expected version as digits, '0' for a missing field;
--           then five for each write: namespace from 0, field, 'set' or 'delete', value, time to live in ms or ''
-- Reply     1; or {n, version of its field} if comparison n, from 0, failed, and nothing was written (version.lua)
-- Errors    UNSUPPORTED: the server has no hash field expiry
--
-- All comparisons come first, then all checks, then the writes. Sets precede deletes, because a full server may refuse them.

local tx, compared = ARGV[6], tonumber(ARGV[7])
local FIRST_COMPARED = 8 + #KEYS / 5
local FIRST_WRITE = FIRST_COMPARED + 4 * compared
local plans, now = {}, write_time()

-- Makes the names of prelude.lua and remove.lua refer to a namespace, and returns the plan of its writes if there is one.
local function enter(place)
  data, registry, info, log, flight = unpack(KEYS, 5 * place + 1, 5 * place + 5)
  name = ARGV[8 + place]
  local plan = plans[place]
  if plan then listed, watched, computing = unpack(plan.state) end
  return plan
end

for i = 0, compared - 1 do
  local at = FIRST_COMPARED + 4 * i
  enter(tonumber(ARGV[at]))
  local field, what, expected = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local same
  if what == 'version' then
    same = version_of(data, info, field) == expected
  else
    if what == 'absent' then expected = false end
    -- Bytes of another length are others, and are not copied.
    same = call('HSTRLEN', data, field) == #(expected or '') and call('HGET', data, field) == expected
  end
  if not same then return {i, version_of(data, info, field)} end
end

for at = FIRST_WRITE, #ARGV, 5 do
  local place, field = tonumber(ARGV[at]), ARGV[at + 1]
  local plan = enter(place)
  if not plan then
    call('HLEN', data)
    look_around()
    plan = {sets = {}, deletes = {}, asked = {}, entries = {}, entry_of = {}, state = {listed, watched, computing}}
    plans[place] = plan
  end
  local exists = call('HEXISTS', data, field) == 1
  if ARGV[at + 2] == 'set' then
    local expires, text, tags = plan_put(field, exists, ARGV[at + 4], false, now)
    plan.sets[#plan.sets + 1] = {field, ARGV[at + 3], expires, text, tags, exists}
  else
    plan.asked[#plan.asked + 1] = field
    if exists then
      must_be_allowed_to_remove()
      plan.deletes[#plan.deletes + 1] = field
    end
  end
end

while later do
  now, later = later, nil
  for place, plan in pairs(plans) do
    enter(place)
    for _, set in ipairs(plan.sets) do set[4] = info_text(now, set[6] and call('HGET', info, set[1]) or nil) end
  end
end

-- Adds to a plan's log entry. An entry has one expiry, so there is one entry for each expiry.
local function note(plan, expires, events, ...)
  local entry = plan.entry_of[expires]
  if not entry then
    entry = {expires = expires, events = 0, told = {}}
    plan.entry_of[expires] = entry
    plan.entries[#plan.entries + 1] = entry
  end
  entry.events = entry.events + events
  for _, part in ipairs({...}) do entry.told[#entry.told + 1] = part end
end

for place, plan in pairs(plans) do
  enter(place)
  local inline_bytes = 0
  for _, set in ipairs(plan.sets) do
    local news = news_of(set[2], inline_bytes)
    inline_bytes = inline_bytes + #news
    note(plan, set[3], put(unpack(set)), set[1], news)
  end
end
for place, plan in pairs(plans) do
  enter(place)
  forget(plan.asked, 1)
  if #plan.deletes > 0 then
    note(plan, '', remove(plan.deletes, 1, #plan.deletes))
    for _, field in ipairs(plan.deletes) do note(plan, '', 0, field, 'd') end
  end
  for part, entry in ipairs(watched and plan.entries or {}) do
    local parts = #plan.entries
    local part_of = parts > 1 and '"tx":["' .. tx .. '",' .. part .. ',' .. parts .. '],' or ''
    tell(entry.events, entry.expires, entry.told, part_of)
  end
end
return 1
