-- Delete a namespace's info if the namespace has no data at this moment.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- Reply    1 if it was deleted, else 0

if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
return redis.call('UNLINK', KEYS[2])
