"""Third-party QMP programs, unchanged, on a VM's own socket."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import BUILD, ROOT

CLIENTS = os.path.join(ROOT, "tests", "clients")
GO_SOURCES = "/usr/share/gocode"
NPM_PACKAGE = "qemu-qmp@0.5.0"


@pytest.fixture
def path(daemon, guest, kvm, tmp_path):
    """The socket of a real VM with a disk."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "d.qcow2"), "64M"], check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                  disks=[{"path": "d.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    return daemon.cairn("qmp-path", "vm1").stdout.rstrip("\n")


def run(command, **kwargs):
    """Run it; return its output as pairs."""
    r = subprocess.run(command, capture_output=True, text=True, timeout=50, **kwargs)
    assert r.returncode == 0 and not r.stderr, r.stdout + r.stderr
    return [next(iter(json.loads(line).items())) for line in r.stdout.splitlines()]


@pytest.fixture
def npm():
    """The folder of node's packages; fetched once."""
    folder = os.path.join(BUILD, "npm")
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    if not os.path.isdir(os.path.join(folder, "node_modules", "split")):
        try:
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts",
                            "--fetch-retries", "0", "--prefix", folder, NPM_PACKAGE],
                           capture_output=True, text=True, timeout=45, stdin=subprocess.DEVNULL, check=True)
        except subprocess.SubprocessError:  # a network that drops packets uses up the time limit
            pytest.skip(f"npm cannot get {NPM_PACKAGE}: is the network there?")
    return os.path.join(folder, "node_modules")


def test_javascript_client_works(path, npm):
    said = run(["node", os.path.join(CLIENTS, "client.js"), path], env={**os.environ, "NODE_PATH": npm})
    assert said[0] == ("greeting", {"major": 7, "minor": 2, "micro": 0})
    assert [v["status"] for k, v in said if k == "status"] == ["running", "paused"]
    jobs = [v for k, v in said if k == "job"]
    assert [j["type"] for j in jobs] == ["snapshot-save", "snapshot-load", "snapshot-delete"]
    assert not [j for j in jobs if "error" in j]
    assert ("error", "Job not found") in said
    assert [v for k, v in said if k in ("event", "end")] == ["stop", "stop", "shutdown", True]


@pytest.fixture
def go_client():
    """Built once."""
    program = os.path.join(BUILD, "go", "client")
    source = os.path.join(CLIENTS, "client.go")
    if not shutil.which("go") or not os.path.isdir(GO_SOURCES + "/src/github.com/digitalocean/go-qemu"):
        pytest.skip("needs golang-go and golang-github-digitalocean-go-qemu-dev")
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.run(["go", "build", "-o", program, source], check=True, timeout=170, env={
            **os.environ, "GO111MODULE": "off", "GOPATH": GO_SOURCES, "GOFLAGS": "-p=2",
            "GOCACHE": os.path.join(BUILD, "go", "cache")})
    return program


@pytest.mark.seconds(240)
def test_go_client_works(go_client, path, tmp_path):
    second = str(tmp_path / "second.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", second, "4M"], check=True)
    said = run([go_client, path, second])
    one = dict(said)
    assert one["version"] == "7.2.0"
    assert one["commands"] > 25
    assert (one["disk"], one["stats"]) == (str(tmp_path / "d.qcow2"), "vda")
    assert one["status"] == "StatusPaused"
    jobs = [v for k, v in said if k == "job"]
    assert [[j["type"] for j in v] for v in jobs] == [["snapshot-save"], ["snapshot-load"],
                                                     ["snapshot-delete"]]
    assert not [j for v in jobs for j in v if "error" in j]
    assert one["added"] == second
    assert one["error"] == "Job not found"
    events = [v for k, v in said if k == "event"]
    loading = ["STOP", "RESUME"]  # as QEMU does for a snapshot-load of a running VM
    assert [e for e in events if e != "JOB_STATUS_CHANGE"] == ["STOP", "RESUME", *loading, "RESET", "SHUTDOWN"]
    assert events.count("JOB_STATUS_CHANGE") == 3 * 6
