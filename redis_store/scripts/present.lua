-- Tells which of some namespaces hold data. About 500 a call: 10,000 at once would block other clients for 8 ms.
--
-- KEYS  data hashes
-- Reply an array of 1 and 0, in the same order

local holds = single_fields_expire(KEYS[1]) and holds_live or holds_any
local present = {}
for i = 1, #KEYS do present[i] = holds(KEYS[i]) end
return present
