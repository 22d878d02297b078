-- Take a partition over: from now on whatever its last owner has in flight is refused.
-- KEYS: mark, pending. ARGV: my nonce (16 characters), the mark of a partition that never had an owner.
-- A mark ends in `"nonce":"<16 characters>"}`; only the nonce is replaced. A mark of another form is left as it is: whoever
-- knows it may be working with it.
local found = redis.call('GET', KEYS[1]) or ARGV[2]
local known = '^{"format":1,.*"nonce":"' .. string.rep('%x', 16) .. '"}$'
if not string.find(found, known) then return {found, ''} end
local mine = string.sub(found, 1, -19) .. ARGV[1] .. '"}'
redis.call('SET', KEYS[1], mine)
-- A commit writes with SET, MSET, HSET, ZADD and ZREM, and Lua does not roll back: a user who may not do all of them is
-- found here, where nothing is lost. (The mark is neither hash nor sorted set, so the last three write nothing.)
redis.call('MSET', KEYS[1], mine)
for _, words in ipairs({{'HSET', KEYS[1], 'may', 'I'}, {'ZADD', KEYS[1], '0', 'I'}, {'ZREM', KEYS[1], 'I'}}) do
  local said = redis.pcall(unpack(words))
  if not string.find(said.err, 'WRONGTYPE', 1, true) then return redis.error_reply(said.err) end
end
return {mine, redis.call('GET', KEYS[2]) or ''}
