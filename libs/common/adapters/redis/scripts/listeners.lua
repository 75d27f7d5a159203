#!lua
-- listeners: keep tenants that somebody listens to, and say which they are.
-- KEYS     set
-- ARGV     ticket, how long each stays in seconds, tenants (none: only look)
-- Returns  {ticket, every tenant whose time is not over}
-- Promise  who is not named again in time is dropped here; Redis's own clock judges.
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], 'GT', now + ARGV[2], ARGV[i])
end
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(all, 1, tonumber(ARGV[1]))
return all
