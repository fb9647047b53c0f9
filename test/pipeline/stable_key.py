"""The algorithm of docs/stable-key.md a second time, written from the page alone: reads vectors, prints their keys."""

import base64
import hashlib
import json
import sys

for vector in json.load(sys.stdin):
    text = json.dumps(vector["parts"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(("oncekey stable key v1\n" + text).encode("utf-8")).digest()
    print("key_" + base64.urlsafe_b64encode(digest).decode().rstrip("="))
