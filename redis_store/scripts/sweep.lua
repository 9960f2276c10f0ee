-- Delete members of tags whose values no longer carry them, for a quota that is used up.
--
-- KEYS[1]  the registry of the tags (tags.lua)
-- ARGV[1]  number of members to check, about
-- Reply    number of members deleted

call('ZCARD', KEYS[1])
return sweep_tags(KEYS[1], tonumber(ARGV[1]), server_time())
