-- Stands after times.lua, before scripts that compare versions.

-- Returns a field's version: '0' if the field does not exist, '' if it has no info, because it was written by hand.
local function version_of(data, info, field)
  if call('HEXISTS', data, field) == 0 then return '0' end
  local _, last = times_in(call('HGET', info, field) or '')
  return last or ''
end
