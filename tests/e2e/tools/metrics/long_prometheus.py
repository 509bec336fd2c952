"""cairn-metrics with Debian's Prometheus: a scrape over TCP, the alert rules, and Grafana's board.
`make check-long`, part "prometheus"."""

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest

from conftest import ROOT, until
from deblib import needed
from metricslib import NOBODY, Server, open_daemon
from test_metrics import TOKEN, free_port

EXAMPLES = os.path.join(ROOT, "tools/metrics/examples")
pytestmark = pytest.mark.seconds(180)


def test_alert_rules(tmp_path):
    needed("promtool")
    shutil.copy(os.path.join(EXAMPLES, "cairn-alerts.yml"), tmp_path)
    shutil.copy(os.path.join(os.path.dirname(__file__), "alerts_test.yml"), tmp_path)
    for args in (["check", "rules", "cairn-alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        r = subprocess.run(["promtool", *args], cwd=tmp_path, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout + r.stderr


def query(port, expression):
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=60) as r:
            return json.load(r)["data"]["result"]
    except OSError:  # it does not listen yet
        return []


@pytest.fixture
def scraped():
    """Yield a daemon with two VMs, and the port of a Prometheus that scrapes it each second."""
    if os.geteuid():
        pytest.skip("needs root, to run cairn-metrics as another user")
    needed("prometheus")
    ours, theirs = free_port(), free_port()
    with open_daemon() as d:
        token = d.tmp / "m/token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        os.chown(token, NOBODY, NOBODY)
        for vm in ("on", "off"):
            d.define(vm, boot={"kernel": str(d.tmp / "kernel"), "cmdline": "works=1"})
        d.cairn("start", "on")
        d.cairn("grant", "viewer", "--user", "nobody")
        server = Server(d, "--tcp", f"127.0.0.1:{ours}", "--token-file", str(token)).ready()
        (d.tmp / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [os.path.join(EXAMPLES, "cairn-alerts.yml")],
            "scrape_configs": [{"job_name": "cairn", "authorization": {"credentials_file": str(token)},
                                "static_configs": [{"targets": [f"127.0.0.1:{ours}"]}]}]}))
        prometheus = subprocess.Popen(["prometheus", f"--config.file={d.tmp}/prometheus.yml", f"--storage.tsdb.path={d.tmp}/data",
                                       f"--web.listen-address=127.0.0.1:{theirs}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield d, theirs
        finally:
            prometheus.terminate()
            prometheus.wait()
            server.close()


def test_prometheus_scrapes(scraped):
    d, port = scraped
    until(lambda: query(port, 'up{job="cairn"} == 1'))
    state, = query(port, 'cairn_domain_state{cairn_domain_state="running"} == 1')
    assert state["metric"]["domain"] == "on"
    until(lambda: query(port, 'rate(cairn_domain_cpu_time_seconds_total{domain="on"}[30s]) > 0'))
    kinds = urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/metadata", timeout=60)
    kinds = {name: m[0]["type"] for name, m in json.load(kinds)["data"].items()}
    assert kinds["cairn_domain_cpu_time_seconds"] == "counter" and kinds["cairn_domain_state"] == "stateset" and kinds["cairn_domain"] == "info"
    # A board asks only for metrics that exist, and in expressions that Prometheus accepts.
    with open(os.path.join(EXAMPLES, "cairn-board.json")) as f:
        board = json.load(f)
    names = {name + "_total" if kind == "counter" else name for name, kind in kinds.items()}
    for target in (t for p in board["panels"] for t in p["targets"]):
        assert set(re.findall(r"cairn_[a-z_]+(?=\{)", target["expr"])) <= names, target
        expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$domain", ".*")
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=60) as r:
            assert json.load(r)["status"] == "success"
    d.stop()
    until(lambda: query(port, "cairn_up == 0"))
    d.start()
