-- Take a partition over: from now on whatever its last owner has in flight is refused.
-- KEYS: mark, pending. ARGV: my nonce (16 characters), the mark of a partition that never had an owner.
-- A mark ends in `"nonce":"<16 characters>"}`; only the nonce is replaced.
local found = redis.call('GET', KEYS[1]) or ARGV[2]
local mine = string.sub(found, 1, -19) .. ARGV[1] .. '"}'
redis.call('SET', KEYS[1], mine)
return {mine, redis.call('GET', KEYS[2]) or ''}
