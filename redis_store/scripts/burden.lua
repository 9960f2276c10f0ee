-- Measure what a call will move and free besides its own bytes, because its fields hold something already: their infos, with the
-- entries of their tags, and their values.
--
-- KEYS[1]   data hash
-- KEYS[2]   info hash
-- ARGV[1]   stop once more bytes than this are to be moved; '0' if the fields are to be deleted, which moves nothing
-- ARGV[2]   bytes that an entry in a tag counts beside the field
-- ARGV[3..] the fields, about 1,000 at most
-- Reply     {bytes of infos and tags, bytes of values}

local STEP = 16 -- infos read at once: one may have a megabyte
local INFO_COPIES, TAG_COPIES = 2, 6 -- how many times as often as other names they are copied

local data, info, most, entry_bytes = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local moved, freed, known, tag_bytes = 0, 0, {}, {}

-- Sets the number of tags in an info, and the bytes of their names. Keys that were written together have the same info.
local function learn(text)
  local at = find(text, '":{', 1, true) -- as in info_text.lua
  local tags = at and sub(text, at - 6, at - 1) == ',"tags' and match(text, '^{[^}]*}', at + 2) or ''
  local _, count = string.gsub(tags, '":1', '')
  known[text], tag_bytes[text] = count, #tags
end

for first = 3, #ARGV, STEP do
  local last = math.min(first + STEP - 1, #ARGV)
  for i = first, last do freed = freed + call('HSTRLEN', data, ARGV[i]) end
  local infos = most > 0 and call('HMGET', info, unpack(ARGV, first, last)) or {}
  for i, text in ipairs(infos) do
    if text then
      if not known[text] then learn(text) end
      local entry = entry_bytes + #ARGV[first + i - 1]
      moved = moved + INFO_COPIES * #text + TAG_COPIES * tag_bytes[text] + known[text] * entry
    end
  end
  if moved > most then break end
end
return {moved, freed}
