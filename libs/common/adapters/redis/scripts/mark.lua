#!lua
-- mark: say that a lane is complete again, and unlock it.
-- KEYS     known, lock, waiting
-- ARGV     ticket, the locker's token, life of `waiting` in ms
-- Returns  {ticket, 1}, or {ticket, 0}: the lock is gone, so what was restored may be gone as well.
-- Promise  whoever loses Redis's memory half-way loses the lock with it, and a half-filled lane is never called known.
--          Who waited for a permit is forgotten too, so the first release wakes everybody.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {tonumber(ARGV[1]), 0} end
redis.call('SET', KEYS[1], redis.call('TIME')[1])
redis.call('SET', KEYS[3], 'rebuilt', 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return {tonumber(ARGV[1]), 1}
