-- Comes before commit.lua in a Redis Cluster. While a slot moves to another node, some of its keys are here and some
-- are there, and a write to the latter would fail in the middle of a commit; Lua does not roll back.
-- So ask for all keys once, with what writes nothing, and fail here. (Those in KEYS Redis has looked at itself.)
do
  local keys = {}
  local function ask(key)
    keys[#keys + 1] = key
    if #keys == 2000 or not key then
      if #keys > 0 then redis.call('EXISTS', unpack(keys)) end
      keys = {}
    end
  end
  local parts = 7 + ARGV[4] + ARGV[5]
  local at = parts + ARGV[6]
  for key = 7, parts - 1, 2 do ask(ARGV[key]) end
  for key = parts, at - 1, 3 do ask(ARGV[key]) end
  for _ = 3, #KEYS do at = at + 1 + ARGV[at] end
  local fed = ARGV[at + 1]
  if fed + ARGV[at + 2 + fed] > 0 then ask(ARGV[at]) end  -- nobody is queued: the index need not be there yet
  ask(nil)
end
