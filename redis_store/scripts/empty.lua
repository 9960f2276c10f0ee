-- Report which namespaces hold no data. Pass about 500 at a time: 10,000 at once would block other clients for 8 ms.
--
-- KEYS   data hashes
-- Reply  array of the positions in KEYS of those that hold none

local empty = {}
for i = 1, #KEYS do
  if holds(KEYS[i]) == 0 then empty[#empty + 1] = i end
end
return empty
