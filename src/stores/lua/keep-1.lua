-- keep: store a completed entry, in place of any marker.
-- KEYS: 1 the key's entry
-- ARGV: 1 the entry  2 its life in ms: what is left of the replay window
-- Returns: "kept" or "refused".
-- Refused over a tombstone: this write may have been under way while the key was forgotten.
if redis.call("GETRANGE", KEYS[1], 0, 11) == "v1 forgotten" then
  return "refused"
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return "kept"
