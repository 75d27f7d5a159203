#!lua flags=allow-oom
-- release: take owners out of a lane's set and, if permits became free and somebody waits, wake the lane once.
-- KEYS     set, and for permits: waiting
-- ARGV     ticket, lane, channel of the wake, owner ...
-- Returns  {ticket, owners that were there}
-- Promise  only these owners go; repeating it, or naming one that is not there, changes nothing and wakes nobody.
--          It needs no `known`: who leaves while the lane is rebuilt must not stay.
local gone = redis.call('ZREM', KEYS[1], unpack(ARGV, 4))
if gone > 0 and KEYS[2] and redis.call('DEL', KEYS[2]) == 1 then
  redis.call('PUBLISH', ARGV[3], ARGV[2])
end
return {tonumber(ARGV[1]), gone}
