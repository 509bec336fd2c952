"""Clones of clone --live --ephemeral: they are undefined, with their images, when they have ended."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import BUILD, QmpError, has_ended, until
from test_transient import gone, names

pytestmark = pytest.mark.seconds(120)


@pytest.fixture
def src(daemon, kvm, guest, tmp_path):
    """A running VM with a qcow2 disk, so that clones have overlays."""
    folder = tmp_path / "images"
    folder.mkdir()
    subprocess.run([f"{BUILD}/cairn-img", "create", "-f", "qcow2", folder / "src.qcow2", "16M"], check=True, stdout=subprocess.DEVNULL)
    daemon.define("src", memory="16M", boot={"kernel": guest("idle.elf")}, disks=[{"path": str(folder / "src.qcow2"), "format": "qcow2"}])
    daemon.cairn("start", "src")
    return folder


def fork(d, *args, **kwargs):
    return d.cairn("clone", "--live", "src", *args, "--ephemeral", **kwargs)


def pins(d):
    path = d.state / "pins.json"
    return len(json.loads(path.read_text())["used"]) if path.exists() else 0


def test_clone_is_gone_with_its_images(daemon, src):
    fork(daemon, "--count", "3", "--name-pattern", "try-%02d")
    assert sorted(names(daemon)) == ["src", "try-01", "try-02", "try-03"] and pins(daemon) == 3
    assert "running (ephemeral)" in daemon.cairn("list").stdout
    assert "Ephemeral:      yes\n" in daemon.cairn("dominfo", "try-01").stdout
    assert "Ephemeral" not in daemon.cairn("dominfo", "src").stdout
    assert daemon.info("try-02")["ephemeral"] is True and daemon.info("try-02")["persistent"] is False
    assert sorted(daemon.cairn("list", "--transient", "--name").stdout.split()) == ["try-01", "try-02", "try-03"]
    daemon.cairn("destroy", "try-01")
    os.kill(daemon.info("try-02")["pid"], signal.SIGKILL)
    gone(daemon, "try-01")
    gone(daemon, "try-02")
    assert sorted(os.listdir(src)) == ["src.qcow2", "try-03-vda.qcow2"]
    pid = daemon.info("try-03")["pid"]
    daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(pid))
    daemon.start()
    gone(daemon, "try-03")
    assert os.listdir(src) == ["src.qcow2"] and names(daemon) == ["src"]
    until(lambda: pins(daemon) == 0)


def test_state_in_a_file_is_refused(daemon, src, tmp_path):
    """It would need disks that are removed."""
    fork(daemon, "a")
    r = daemon.cairn("save", "a", tmp_path / "a.state", ok=False)
    assert "use cairn managedsave" in r.stderr and not (tmp_path / "a.state").exists()
    assert daemon.info("a")["state"] == "running"


def test_image_that_a_clone_reads_stays_until_that_clone_is_gone(daemon, src):
    fork(daemon, "a")
    daemon.cairn("clone", "--live", "a", "b")
    daemon.cairn("destroy", "a")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert sorted(names(daemon)) == ["a", "b", "src"] and daemon.info("a")["ephemeral"] is True
    daemon.cairn("destroy", "b")
    daemon.cairn("undefine", "b", "--remove-all-storage")
    gone(daemon, "a")
    assert os.listdir(src) == ["src.qcow2"]


def test_disk_that_was_attached_to_the_clone_stays(daemon, src):
    subprocess.run([f"{BUILD}/cairn-img", "create", "-f", "raw", src / "data.raw", "1M"], check=True, stdout=subprocess.DEVNULL)
    fork(daemon, "a")
    daemon.cairn("attach-disk", "a", src / "data.raw", "vdb", "--subdriver", "raw", "--config")
    assert "data.raw" in daemon.cairn("domblklist", "a", "--inactive").stdout and daemon.info("a")["ephemeral"]
    daemon.cairn("destroy", "a")
    gone(daemon, "a")
    assert sorted(os.listdir(src)) == ["data.raw", "src.qcow2"]


def test_images_of_a_clone_of_an_earlier_version_go(daemon, src):
    """Its transient.json does not name them."""
    fork(daemon, "a")
    path = daemon.state / "vms/a/transient.json"
    kept = json.loads(path.read_text())
    assert kept.pop("images") == [str(src / "a-vda.qcow2")]
    path.write_text(json.dumps(kept))
    (src / "data.raw").write_bytes(bytes(1 << 20))
    daemon.cairn("attach-disk", "a", src / "data.raw", "vdb", "--subdriver", "raw", "--config")
    daemon.cairn("destroy", "a")
    gone(daemon, "a")
    assert sorted(os.listdir(src)) == ["data.raw", "src.qcow2"]  # a user's disk stays


def test_clone_that_is_defined_again_stays(daemon, src):
    fork(daemon, "a")
    daemon.cairn("define", "-", input=daemon.cairn("dumpjson", "a").stdout, stdin=None)
    assert "ephemeral" not in daemon.info("a") and daemon.info("a")["persistent"] is True
    daemon.cairn("destroy", "a")
    assert sorted(os.listdir(src)) == ["a-vda.qcow2", "src.qcow2"]


def test_limits_names_and_result(daemon, src):
    q = daemon.qmp()
    job = q.run("vm-fork", vm="src", **{"name-pattern": "c%d", "count": 2, "cpu-quota": 50})["job"]
    until(lambda: q.jobs()[0]["status"] == "concluded")
    found = [{"name": n, "uuid": daemon.info(n)["uuid"]} for n in ("c1", "c2")]
    assert [j for j in q.jobs() if j["id"] == job][0]["result"]["clones"] == found
    assert json.loads(daemon.cairn("dumpjson", "c1").stdout)["cpu_quota"] == 50
    daemon.cairn("clone", "--live", "src", "d", "--cpus", "1.5")
    assert json.loads(daemon.cairn("dumpjson", "d").stdout)["cpu_quota"] == 150
    daemon.cairn("clone", "--live", "src", "e", "--memory-max", "96M")
    assert json.loads(daemon.cairn("dumpjson", "e").stdout)["memory_max"] == "96M"
    for args, why in (({}, "give either name or name-pattern"), ({"name": "x", "name-pattern": "y%d"}, "give either name or name-pattern"),
                      ({"name": "x", "cpu-quota": 0}, "cpu-quota: 0 is out of range; give 1 to 25600, in percent of one processor"),
                      ({"name": "x", "memory-max": 4097}, "memory-max: 4097 is not a multiple of 4 KiB from 1 MiB on, in bytes"),
                      ({"name-pattern": "x"}, "must have one number")):
        with pytest.raises(QmpError, match=why):
            q.run("vm-fork", vm="src", **args)
    assert "--ephemeral requires --live" in daemon.cairn("clone", "src", "x", "--ephemeral", ok=2).stderr
    assert "--memory-max requires --live" in daemon.cairn("clone", "src", "x", "--memory-max", "1G", ok=2).stderr
    assert "--memory-max must be a size such as 512M" in daemon.cairn("clone", "--live", "src", "x", "--memory-max", "much", ok=2).stderr
    assert "--cpus must be a number of processors" in daemon.cairn("clone", "--live", "src", "x", "--cpus", "nan", ok=2).stderr
    assert "NAME and --name-pattern exclude each other" in daemon.cairn("clone", "--live", "src", "x", "--name-pattern", "y%d", ok=2).stderr
    for name in "y%d", "y%02d":
        assert f"to number the clones: --name-pattern {name} in place of NAME" in daemon.cairn("clone", "--live", "src", name, ok=2).stderr


def test_destroy_returns_when_the_name_is_free(daemon, src):
    q = daemon.qmp()
    for _ in range(8):
        fork(daemon, "a")
        q.run("vm-destroy", vm="a")
        assert [vm["name"] for vm in q.run("vm-list")["vms"]] == ["src"] and os.listdir(src) == ["src.qcow2"]


def test_destroy_returns_also_if_the_clone_stays_for_another(daemon, src):
    fork(daemon, "a")
    daemon.cairn("clone", "--live", "a", "b")
    begun = time.monotonic()
    daemon.cairn("destroy", "a")
    assert time.monotonic() - begun < 4 and "a" in names(daemon)
