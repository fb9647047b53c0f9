-- unmark: take the asker's marker away, and where the key was given back, tell who waits for it.
-- KEYS: 1 the key's entry
-- ARGV: 1 how the asker's marker begins, claim id included  2 the key's channel, or "" to tell nobody
-- Returns: "unmarked" or "absent".
-- The claim id is compared here, in one step with the deletion: another claimer's marker, or a completed entry that came in
-- between, must stay. The marker may be over while its claim was not, so that it does not decide who is told.
-- pcall: a user who may not publish must still be able to unmark.
local answer = "absent"
if redis.call("GETRANGE", KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  redis.call("DEL", KEYS[1])
  answer = "unmarked"
end
if ARGV[2] ~= "" then
  redis.pcall("PUBLISH", ARGV[2], "")
end
return answer
