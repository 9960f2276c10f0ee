-- Report which namespaces hold data. Pass about 500 at a time: 10,000 at once would block other clients for 8 ms.
--
-- KEYS   data hashes
-- Reply  array of 1 and 0, in the order of KEYS

local present = {}
for i = 1, #KEYS do present[i] = holds(KEYS[i]) end
return present
