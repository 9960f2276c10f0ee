-- Stands between prelude.lua, time.lua and a script that sets fields: builds the text of a key's info.
--
-- ARGV[5]  the agent's name as a JSON string without raw quotes inside, or ''

local agent = ARGV[5]

-- Returns the info of a key written now, from its old info (nil for a new key). If `metadata` is not nil, it replaces the
-- old metadata ('' for none). Equal or empty parts are left out; metadata comes last.
local function info_text(now, old, metadata)
  local created, rest = now, ''
  local by, updated, updated_by = agent, '', ''
  if old then
    local old_created, old_rest = match(old, '^{"created":(%d+)(.*)}$')
    if old_created then
      created, rest = old_created, old_rest
      by = match(rest, '^,"by":("[^"]*")') or ''
      if now ~= created then updated = ',"updated":' .. now end
      if agent ~= by then updated_by = ',"updated_by":' .. (agent == '' and 'null' or agent) end
    end
  end
  if metadata then
    metadata = metadata ~= '' and ',"metadata":' .. metadata or ''
  else
    local at = find(rest, ',"metadata":', 1, true)
    metadata = at and sub(rest, at) or ''
  end
  return '{"created":' .. created .. (by ~= '' and ',"by":' .. by or '') .. updated .. updated_by .. metadata .. '}'
end
