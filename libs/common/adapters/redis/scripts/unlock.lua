#!lua flags=allow-oom
-- unlock: let others rebuild the lane, since this process could not.
-- KEYS     lock
-- ARGV     ticket, the locker's token
-- Returns  {ticket, 1}, or {ticket, 0}: another one's lock, or none
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return {tonumber(ARGV[1]), 0} end
return {tonumber(ARGV[1]), redis.call('DEL', KEYS[1])}
