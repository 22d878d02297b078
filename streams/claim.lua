-- Take a partition over: from now on whatever its last owner has in flight is refused.
-- KEYS: mark, pending. ARGV: my nonce (16 characters), the mark of a partition that never had an owner.
-- A mark ends in `"nonce":"<16 characters>"}`; only the nonce is replaced. A mark of another form is left as it is: whoever
-- knows it may be working with it.
local found = redis.call('GET', KEYS[1]) or ARGV[2]
local known = '^{"format":1,.*"nonce":"' .. string.rep('%x', 16) .. '"}$'
if not string.find(found, known) then return {found, ''} end
-- A user who may not do all that a commit does is found here, before he owns anything.
need('SET', KEYS[1], '', '')
need('MSET', KEYS[1], '', KEYS[1])
need('SETRANGE', KEYS[1], '-1', '')
need('HSET', KEYS[1], '', '', '')
need('ZADD', KEYS[1], '0', '', '0')
need('ZREM', KEYS[1], '')
local pending = redis.call('GET', KEYS[2]) or ''
local mine = string.sub(found, 1, -19) .. ARGV[1] .. '"}'
redis.call('SET', KEYS[1], mine)
return {mine, pending}
