-- renew: extend the asker's marker, or set it again where nothing is there (evicted, flushed, or lost in a failover).
-- KEYS: 1 the key's entry
-- ARGV: 1 the marker  2 its life in ms
-- Returns: "renewed" or "refused".
-- One byte more than the marker is read, so that only the very same marker compares equal.
local entry = redis.call("GETRANGE", KEYS[1], 0, #ARGV[1])
if entry == "" or entry == ARGV[1] then
  redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
  return "renewed"
end
return "refused"
