-- keep: store completed entries, in place of any markers, and tell who waits for the keys.
-- KEYS: the keys' entries, each once; on a Redis Cluster only one
-- ARGV: for each key  1 the entry  2 its life in ms: what is left of the replay window  3 the key's channel, or "" to tell nobody
-- Returns: for each key "kept" or "refused".
-- Refused over a tombstone: this write may have been under way while the key was forgotten.
-- Told here, so that whoever is woken finds the entry. pcall: a user who may not publish must still be able to keep.
local answers = {}
for i, key in ipairs(KEYS) do
  local entry, life, channel = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  if redis.call("GETRANGE", key, 0, 11) == "v1 forgotten" then
    answers[i] = "refused"
  else
    redis.call("SET", key, entry, "PX", life)
    if channel ~= "" then
      redis.pcall("PUBLISH", channel, "")
    end
    answers[i] = "kept"
  end
end
return answers
