"""The chart's alerts with an hour as a minute and a minute as a second, for faults that a test can wait for."""

import re

import yaml
from alerts import rule_file

QUICK = frozenset(
    {
        "Sam3ftTrainingStalled",
        "Sam3ftCheckpointStale",
        "Sam3ftRunUnschedulable",
        "Sam3ftBridgeLost",
        "Sam3ftSchedulerUnreachable",
        "Sam3ftNoLeader",
    }
)
"""Alerts whose times are shortened; those of watches and of rates count by what is normal, which stays."""
_SHORTER = {"m": "s", "h": "m"}


def quick_rules() -> str:
    """Return the rule file with those alerts' times, and the ages in seconds that they compare with, over 60."""
    rules = yaml.safe_load(rule_file())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] in QUICK):
        rule["for"] = _quick(rule["for"])
        rule["expr"] = re.sub(r"\[(\d+[mh])\]", lambda found: f"[{_quick(found[1])}]", rule["expr"])
        rule["expr"] = re.sub(r"offset (\d+[mh])", lambda found: f"offset {_quick(found[1])}", rule["expr"])
        rule["expr"] = re.sub(r"> (900|3600)\b", lambda found: f"> {int(found[1]) // 60}", rule["expr"])
    return str(yaml.safe_dump(rules))


def _quick(span: str) -> str:
    return f"{span[:-1]}{_SHORTER[span[-1]]}"
