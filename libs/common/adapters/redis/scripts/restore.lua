#!lua
-- restore: add owners that PostgreSQL knows.
-- KEYS     set, and while a lane is rebuilt: lock
-- ARGV     ticket, life of the lock in ms, then for each: owner, life of its place in ms
-- Returns  {ticket, owners that were missing}
-- Promise  only adds, past the limit too: PostgreSQL wins. Who is there keeps the later end of the two.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local places = {}
for i = 3, #ARGV, 2 do
  places[i - 2] = now + ARGV[i + 1]
  places[i - 1] = ARGV[i]
end
if KEYS[2] then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return {tonumber(ARGV[1]), redis.call('ZADD', KEYS[1], 'GT', unpack(places))}
