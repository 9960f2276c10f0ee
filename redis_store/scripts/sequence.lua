-- Stands after base.lua or prelude.lua, before the scripts of sequences: namespaces whose keys are positions, of 16 digits.
--
-- The info hash has a field '' for them, which is no key's name: '<first position> <next position>'. It goes with the hash, when
-- the last item is deleted. It is a hint: a sequence that was written by hand, or whose hint is lost, is looked through.

local MOST_POSITION = 9007199254740991

local function name_of(position)
  return string.format('%016.0f', position)
end

-- Returns the first position that may hold an item, and the position for the next item.
local function ends_of(data, info)
  local first, following = match(call('HGET', info, '') or '', '^(%d+) (%d+)$')
  if first and #following <= 16 and call('HEXISTS', data, name_of(following)) == 0 then
    return tonumber(first), tonumber(following)
  end
  local low, high
  for _, name in ipairs(call('HKEYS', data)) do
    local position = #name == 16 and find(name, '^%d+$') and tonumber(name)
    if position and position < MOST_POSITION then
      if not low or position < low then low = position end
      if not high or position > high then high = position end
    end
  end
  return low or 0, high and high + 1 or 0
end
