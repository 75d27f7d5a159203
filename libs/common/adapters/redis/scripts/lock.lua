#!lua
-- lock: let one process at a time rebuild an unknown lane.
-- KEYS     known, lock
-- ARGV     ticket, the process's own token, life of the lock in ms
-- Returns  {ticket, 1} locked for this token, {ticket, 0} another one works on it, {ticket, 2} the lane is known.
local verdict = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  verdict = 2
elseif redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then
  verdict = 1
end
return {tonumber(ARGV[1]), verdict}
