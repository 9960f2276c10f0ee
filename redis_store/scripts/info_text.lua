-- Stands between prelude.lua, times.lua and a script that sets fields: builds the text of a key's info.
--
-- ARGV[5]  the agent's name as a JSON string without raw quotes inside, or ''; then ',"run":' and the id of its run in the same
--          form, or nothing
--
-- This is format 2 of infos. Stores that know only format 1 read it, but lose `run` and `by` when they write a key again. So the
-- format's version that a server states must be 2 where these scripts write.

local agent, run = ARGV[5], ''
local run_at = find(agent, ',"run":', 1, true)
if run_at then agent, run = sub(agent, 1, run_at - 1), sub(agent, run_at) end
local later -- the time to write with, if one of the keys was written at `now` or after it: a key's version only grows

-- The server's clock, in µs since 1970, as digits. (Text is faster than numbers.) Without the last three it is in ms.
local function write_time()
  local time = call('TIME')
  return time[1] .. sub('00000' .. time[2], -6)
end

-- Returns the info of a key written now, from its old info (nil for a new key), and the tags in it: a JSON object with their
-- Redis keys as names, or ''. If `metadata` is not nil, it replaces the old metadata ('' for none), and if `tags` is not nil, it
-- replaces the old tags. Equal or empty parts are left out. Tags and metadata come last; there is no raw quote in the texts that
-- precede metadata, and no raw '}' in tags.
-- A script that writes several keys does it again with `later`, if that is set, so that all get one version.
local function info_text(now, old, metadata, tags)
  local created, updated, by, updated_by = now, '', agent, ''
  local old_tags, old_metadata = '', ''
  local first, last, name
  if old and sub(old, -1) == '}' then first, last, name = times_in(old) end
  if first then
    if last >= now and #last == #now then
      now = string.format('%.0f', last + 1)
      if not later or now > later then later = now end
    end
    created, by = first, name
    updated = ',"updated":' .. now
    if agent ~= by then updated_by = ',"updated_by":' .. (agent == '' and 'null' or agent) end
    local at = find(old, '":{', 1, true)
    if at and sub(old, at - 6, at - 1) == ',"tags' then
      old_tags = match(old, '^{[^}]*}', at + 2) or ''
      old_metadata = sub(old, at + 2 + #old_tags, -2)
    elseif at and sub(old, at - 10, at - 1) == ',"metadata' then
      old_metadata = sub(old, at - 10, -2)
    end
  end
  tags = tags or old_tags
  if metadata then
    metadata = metadata ~= '' and ',"metadata":' .. metadata or ''
  else
    metadata = old_metadata
  end
  if tags ~= '' then metadata = ',"tags":' .. tags .. metadata end
  by = by ~= '' and ',"by":' .. by or ''
  return '{"created":' .. created .. updated .. by .. updated_by .. run .. metadata .. '}', tags
end
