"""The rendered chart and the Dockerfiles, judged by checkov."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from chart_bench import CHART, Helm
from tools_here import need_binary

ROOT = CHART.parents[1]
SETTINGS = ROOT / "charts" / "checkov.yaml"


def test_checkov_finds_nothing_and_each_of_its_checks_that_is_left_out_has_a_reason(helm: Helm, tmp_path: Path) -> None:
    checkov = need_binary("checkov")
    judged = tmp_path / "judged"
    judged.mkdir()
    for dockerfile in (ROOT / "docker").glob("*.Dockerfile"):
        shutil.copy(dockerfile, judged)
    for case in (CHART / "ci").glob("*.yaml"):
        words = ("template", "demo", str(CHART), "-n", "ops", "--kube-version", "1.35.4", "-f", str(case))
        # Where the cluster itself chooses the user, as on OpenShift, the manifest cannot show which one.
        (judged / case.name).write_text(helm(*words, "--set", "operator.runAsUser=65532").stdout)

    words = [str(checkov), "-d", str(judged), "--framework", "kubernetes", "dockerfile", "-o", "json"]
    ended = subprocess.run(
        [*words, "--config-file", str(SETTINGS)], capture_output=True, text=True, timeout=300, check=False
    )
    reports = {report["check_type"]: report for report in json.loads(ended.stdout)}
    assert {"kubernetes", "dockerfile"} == set(reports)
    failed = [
        f"{check['check_id']} {check['check_name']}: {check['resource']}"
        for report in reports.values()
        for check in report["results"]["failed_checks"]
    ]
    assert [] == failed
    assert all(report["summary"]["passed"] > 100 for report in reports.values())
    assert all(report["summary"]["skipped"] == report["summary"]["parsing_errors"] == 0 for report in reports.values())


def test_what_is_left_out_is_left_out_with_a_reason() -> None:
    lines = SETTINGS.read_text().splitlines()
    told = [number for number, line in enumerate(lines) if re.match(r"  - CKV", line)]
    assert told
    for number in told:
        assert re.match(r"  (# \w.{20,}|- CKV)", lines[number - 1]), lines[number]
