"""The alert rules, judged by Debian's promtool. `make check-long`, part "prometheus"."""

import os
import shutil
import subprocess

import pytest

from conftest import ROOT


@pytest.mark.skipif(not shutil.which("promtool"), reason="no prometheus")
def test_alert_rules(tmp_path):
    shutil.copy(os.path.join(ROOT, "tools/metrics/examples/cairn-alerts.yml"), tmp_path)
    shutil.copy(os.path.join(os.path.dirname(__file__), "alerts_test.yml"), tmp_path)
    for args in (["check", "rules", "cairn-alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        r = subprocess.run(["promtool", *args], cwd=tmp_path, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout + r.stderr
