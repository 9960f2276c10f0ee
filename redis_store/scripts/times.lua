-- Stands between base.lua and the scripts that read when a key was written.

-- Returns the times of the first and the last write in an info, in µs since 1970 as digits, and the JSON text of the name of the
-- first writer, or ''. Returns nil for another text. The last write's time is the key's version.
-- Format 1 had ms, of 13 digits, and `by` before `updated`.
local function times_in(text)
  local created, at = match(text, '^{"created":(%d+)()')
  if not created or #created > 16 then return nil end
  local last, past = match(text, '^,"updated":(%d+)()', at)
  local by, behind = match(text, '^,"by":("[^"]*")()', past or at)
  if not last then last = match(text, '^,"updated":(%d+)', behind or at) end
  if not last or #last > 16 then last = created end
  if #created < 15 then created = created .. '000' end
  if #last < 15 then last = last .. '000' end
  return created, last, by or ''
end
