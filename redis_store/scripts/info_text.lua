-- Stands between prelude.lua, time.lua and a script that sets fields: builds the text of a key's info.
--
-- ARGV[5]  the agent's name as a JSON string without raw quotes inside, or ''

local agent = ARGV[5]

-- Returns the info of a key written now, from its old info (nil for a new key), and the tags in it: a JSON object with their
-- Redis keys as names, or ''. If `metadata` is not nil, it replaces the old metadata ('' for none), and if `tags` is not nil, it
-- replaces the old tags. Equal or empty parts are left out. Tags and metadata come last; there is no raw quote in the texts that
-- precede metadata, and no raw '}' in tags.
local function info_text(now, old, metadata, tags)
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
  local old_tags, old_metadata = '', ''
  local at = find(rest, '":{', 1, true)
  if at and sub(rest, at - 6, at - 1) == ',"tags' then
    old_tags = match(rest, '^{[^}]*}', at + 2) or ''
    old_metadata = sub(rest, at + 2 + #old_tags)
  elseif at and sub(rest, at - 10, at - 1) == ',"metadata' then
    old_metadata = sub(rest, at - 10)
  end
  tags = tags or old_tags
  if metadata then
    metadata = metadata ~= '' and ',"metadata":' .. metadata or ''
  else
    metadata = old_metadata
  end
  if tags ~= '' then metadata = ',"tags":' .. tags .. metadata end
  return '{"created":' .. created .. (by ~= '' and ',"by":' .. by or '') .. updated .. updated_by .. metadata .. '}', tags
end
