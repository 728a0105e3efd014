"""The audit log of a control plane, whatever users have sent."""

import json

from audit import audit_entries


def test_an_entry_may_hold_any_end_of_line_and_one_that_is_being_written_waits() -> None:
    entries = [{"said": "a\u2028b\u0085c}"}, {"said": "next"}]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]

    assert entries == list(audit_entries("\n".join([*lines, '{"said": "hal']).encode()))
