-- Stands before a script that gets more arguments than one command may have.
--
-- ARGV[1]   the arguments, an array of texts in MessagePack; in the place of long ones, ''
-- ARGV[2]   the positions of the long ones, in the same form
-- ARGV[3..] the long ones; in the array, each would be copied once more
--
-- Some servers have no cmsgpack. There the array is read here, at ten times the cost.

local ARGV = (function(given)
  local function array(text)
    local known, found = pcall(function() return cmsgpack.unpack(text) end)
    if known then return found end
    found = {}
    local at = 6
    while at <= #text do
      local a, b, c, d = string.byte(text, at + 1, at + 4)
      local length = ((a * 256 + b) * 256 + c) * 256 + d
      found[#found + 1] = string.sub(text, at + 5, at + 4 + length)
      at = at + 5 + length
    end
    return found
  end
  local arguments = array(given[1])
  for i, at in ipairs(array(given[2])) do arguments[tonumber(at)] = given[i + 2] end
  return arguments
end)(ARGV)

