-- Add hits to the counts of a namespace (count.lua).
--
-- KEYS[1]  hash of the even days
-- KEYS[2]  hash of the odd days
-- ARGV[1]  the namespace's name
-- ARGV[2]  number of hits
-- Reply    1

count(KEYS[1], KEYS[2], ARGV[1], ARGV[2], 0, now_ms())
return 1
