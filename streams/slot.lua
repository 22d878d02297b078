-- Comes before commit.lua in a Redis Cluster. While a slot moves to another node, some of its keys are here and some
-- are there, and a write to the latter would fail in the middle of a commit; Lua does not roll back.
-- So ask for all keys once, with what writes nothing, and fail here. (Those in KEYS Redis has looked at itself.)
do
  local keys, last = {}, 4 + ARGV[4]
  for at = 5, last, 2 do
    keys[#keys + 1] = ARGV[at]
    if #keys == 2000 or at + 2 > last then
      redis.call('EXISTS', unpack(keys))
      keys = {}
    end
  end
end
