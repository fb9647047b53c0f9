-- forget: remove the key's entry and refuse late writes of it.
-- KEYS: 1 the key's entry
-- ARGV: 1 life of the tombstone in ms
-- Returns: "forgotten".
redis.call("SET", KEYS[1], "v1 forgotten", "PX", ARGV[1])
return "forgotten"
