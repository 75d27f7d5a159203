#!lua flags=allow-oom
-- renew: prolong places that are past half of their life.
-- KEYS     set, known
-- ARGV     ticket, life of a place in ms, owner ...
-- Returns  {ticket, places prolonged}; {ticket}: lane unknown.
-- Promise  adds nobody: who is not there, or has lapsed, stays out. Fresh places cost a read and no write.
local ticket, life = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then return {ticket} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local late = {}
for i, ends in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 3))) do
  ends = ends and tonumber(ends)
  if ends and ends > now and ends < now + life / 2 then
    late[#late + 1] = now + life
    late[#late + 1] = ARGV[i + 2]
  end
end
if #late > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(late)) end
return {ticket, #late / 2}
