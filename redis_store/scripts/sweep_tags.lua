-- Stands between tags.lua and the scripts that claim and store a value with tags: deletes members whose values no longer carry
-- their tag.
--
-- Such a value was deleted, evicted, renamed, cleared with its namespace, or computed again with other tags. A claim and a commit
-- each check as many members as the value has tags, twice as many together as are added: those of the tags that were swept longest
-- ago, of which a tag stays the first while most of it is dead. So dead members are at most about as many as living ones, however
-- long values come and go.

local SWEPT = 8 -- members of a tag that are checked together
local PAGE = 100 -- tags
local SWEPT_BYTES = 1048576 -- read at most by one call: names and infos may be long

-- Whether a value carries a tag, or is being computed, and how many bytes were read. A member of another form counts as carried.
local function carries(key, member)
  local length, rest = match(member, '^(%d+):(.*)$')
  if not length then return true, 0 end
  local name, field = sub(rest, 1, length), sub(rest, length + 2)
  local user = match(key, '^user:[^:]*:')
  if call('HEXISTS', user .. 'flight:' .. name, 'c' .. field) == 1 then return true, 0 end
  if call('HEXISTS', user .. 'ns:' .. name, field) == 0 then return false, 0 end
  local text = call('HGET', user .. 'info:' .. name, field) or ''
  local tags = tags_in(text) or ''
  if find(tags, '"' .. key .. '":', 1, true) then return true, #text end
  -- Only a name with an escape in it has another form there.
  return find(tags, '\\', 1, true) ~= nil and cjson.decode(tags)[key] ~= nil, #text
end

-- Checks about so many members of the tags that a registry lists, and returns how many it has deleted. What is of another type is
-- passed over.
local function sweep_tags(registry, count, now)
  local bytes, deleted = 0, 0
  while count > 0 and bytes < SWEPT_BYTES do
    local page = call('ZRANGE', registry, 0, math.min(count, PAGE) - 1)
    if #page == 0 then return deleted end
    for _, key in ipairs(page) do
      local asked, dead = math.min(SWEPT, count), {}
      local members = redis.pcall('ZRANDMEMBER', key, asked)
      if members.err then members = {} end
      for _, member in ipairs(members) do
        local known, alive, read = pcall(carries, key, member)
        bytes = bytes + #member + (known and read or 0)
        if known and not alive then dead[#dead + 1] = member end
      end
      if #dead > 0 then call('ZREM', key, unpack(dead)) end
      count, deleted = count - math.max(1, #members), deleted + #dead
      if #dead == #members and #members < asked then
        call('ZREM', registry, key)
      elseif 2 * #dead < #members then
        call('ZADD', registry, now, key)
      end
      if count <= 0 or bytes >= SWEPT_BYTES then return deleted end
    end
  end
  return deleted
end
