"""Answers every verb with its words and the config it was given; FAKE_CODE makes `check` refuse with that code.

`keep` says that every log is kept as far as it goes.

In the folder FAKE_REFUSALS a file NAME.refused makes it refuse the run of that name, with 11.
"""

import json
import os
import sys
from pathlib import Path

verb, *words = sys.argv[1:]
wants_json = words[-2:] == ["-o", "json"]
code = int(os.environ.get("FAKE_CODE", "0")) if verb == "check" else 0
config = json.loads(Path(words[words.index("--config") + 1]).read_text()) if "--config" in words else None
if verb == "check" and (folder := os.environ.get("FAKE_REFUSALS")):
    code = 11 if (Path(folder) / f"{config['identity']['name']}.refused").exists() else 0
if "--termination-log" in words:
    found = {"images": 3, "annotations": 30, "categories": 1, "problems": 0, "digest": "fake"}
    word = {"code": code, "reason": "Reason", "message": "image 7.jpg is missing" if code else ""}
    word |= {} if code else {"dataset": found}
    Path(words[words.index("--termination-log") + 1]).write_text(json.dumps(word))
if code:
    print("error: image 7.jpg is missing; add it or remove its annotations", file=sys.stderr)
    if wants_json:
        print(json.dumps({"code": code, "reason": "Reason", "message": "image 7.jpg is missing"}))
    sys.exit(code)
if verb == "keep":
    logs = json.load(sys.stdin)["logs"]
    answers = [{"log": log["log"], "end": Path(log["log"]).stat().st_size, "problem": ""} for log in logs]
    print(json.dumps({"logs": answers}))
    sys.exit()
document = {"verb": verb, "words": words, "cache": os.environ.get("SAM3FT_CACHE_DIR")}
if config is not None:
    document["config"] = config
if "--save" in words:
    Path(words[words.index("--save") + 1]).write_text('{"train": {"images": 3}}')
if verb == "compose":
    document = {"scratch": {"train_batch_size": 2}, "identity": {"name": "composed"}, "data": {"uri": words[0]}}
print(json.dumps(document) if wants_json else f"trainer {verb} says hello: {' '.join(words)}")
