-- Stands after version.lua, before the whole text of a script that writes one field: runs it if the field has a version.
--
-- KEYS    those of the script: data hash first, info hash third
-- ARGV    those of the script, then the field, and its expected version as digits: '0' for a missing field
-- Reply   that of the script; or {'version', its version}, and nothing was written, see version.lua

do
  local last = #ARGV
  local field, expected = ARGV[last - 1], ARGV[last]
  ARGV[last], ARGV[last - 1] = nil, nil
  local found = version_of(KEYS[1], KEYS[3], field)
  if found ~= expected then return {'version', found} end
end
