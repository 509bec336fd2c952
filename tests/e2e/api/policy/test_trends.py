"""Trends: what a VM did is recorded each second, without waking it, and outlives the daemon and the VM's process."""

import csv
import io
import json
import signal
import time
import xml.dom.minidom

import pytest

from conftest import until
from test_figures import at_rest, switches
from test_hotplug import image, machine

pytestmark = pytest.mark.usefixtures("kvm")

NS = 10**9


def trend(d, vm, *series, seconds=60):
    """Return the averages of the last seconds, per series."""
    q = d.qmp()
    answer = q.run("vm-trend", vm=vm, series=list(series), step=NS, points=seconds, **{"from": time.time_ns() - seconds * NS})
    q.close()
    return [s["average"] for s in answer["series"]]


def known(values):
    return [v for v in values if v is not None]


def recorded(d, vm, n):
    """Wait until n seconds of the VM are known."""
    until(lambda: len(known(trend(d, vm, "memory")[0])) >= n)


def started(d, guest, name="a", kind="idle"):
    d.define(name, boot={"kernel": guest(f"{kind}.elf")}, memory="32M")
    d.cairn("start", name)
    return d.info(name)["pid"]


def test_sampling_wakes_no_process_and_writes_nothing_of_an_idle_vm(daemon, guest):
    pid = started(daemon, guest)
    recorded(daemon, "a", 3)
    before = at_rest(pid)
    seen = len(known(trend(daemon, "a", "cpu")[0]))
    until(lambda: len(known(trend(daemon, "a", "cpu")[0])) >= seen + 3)
    assert switches(pid) == before
    assert set(known(trend(daemon, "a", "cpu")[0])[2:]) == {0}
    assert not (daemon.state / "vms/a/trends").exists()


def test_trends_outlive_vm_daemon_and_rename(daemon, guest):
    started(daemon, guest)
    recorded(daemon, "a", 3)
    daemon.cairn("destroy", "a")
    seen = len(known(trend(daemon, "a", "memory")[0]))
    assert seen >= 3
    until((daemon.state / "vms/a/trends").exists)
    daemon.stop()
    daemon.start()
    assert len(known(trend(daemon, "a", "memory")[0])) == seen
    daemon.cairn("domrename", "a", "b")
    assert len(known(trend(daemon, "b", "memory")[0])) == seen
    daemon.cairn("clone", "b", "--name", "c")
    assert not known(trend(daemon, "c", "memory")[0])
    daemon.cairn("undefine", "b")
    assert not (daemon.state / "vms/b").exists()


def test_running_vm_goes_on_after_the_daemon_restarts(daemon, guest):
    started(daemon, guest)
    recorded(daemon, "a", 3)
    daemon.stop()
    daemon.start()
    values = known(trend(daemon, "a", "memory")[0])
    assert len(values) >= 3
    recorded(daemon, "a", len(values) + 2)


def test_killed_daemon_loses_only_what_was_not_written(daemon, guest):
    started(daemon, guest)
    recorded(daemon, "a", 2)
    daemon.cairn("destroy", "a")
    until(lambda: (daemon.state / "vms/a/trends").exists())
    daemon.cairn("start", "a")
    seen = len(known(trend(daemon, "a", "memory")[0]))
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert len(known(trend(daemon, "a", "memory")[0])) >= min(seen, 2)
    recorded(daemon, "a", seen + 1)


def test_busy_vm_shows_its_processor_time_and_its_disk(daemon, guest, tmp_path):
    g = machine(daemon, guest, vcpus=2, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    recorded(daemon, "a", 1)
    g.run("open 0")
    g.run("storm start 1 0x1000000 0x400000")
    for s in range(0, 64, 8):
        g.run(f"write {s} 8 1")

    def counted():
        requests, cpu = map(known, trend(daemon, "a", "wr-reqs", "cpu"))
        return any(requests) and not requests[-1] and sum(cpu) > 1
    until(counted)
    written, requests, latency, errors = trend(daemon, "a", "wr-bytes", "wr-reqs", "wr-latency", "io-errors")
    # A late sample has the rate of its longer time, so the sum of the rates is not exactly that of the requests.
    assert known(written) == pytest.approx([8 * 512 * n for n in known(requests)], rel=1e-4)
    assert 8 / 4 < sum(known(requests)) < 8 * 4
    assert all(v > 0 for v in known(latency)) and not any(known(errors))


def test_damaged_file_is_set_aside_and_a_newer_one_stays(daemon, guest):
    started(daemon, guest)
    recorded(daemon, "a", 1)
    path = daemon.state / "vms/a/trends"
    path.write_bytes(b"no trends" * 1000)
    assert "is damaged" in daemon.cairn("trend", "a", ok=False).stderr
    daemon.cairn("destroy", "a")
    until(lambda: path.with_name("trends.damaged").exists())
    recorded(daemon, "a", 1)


def test_cli_draws_and_prints(daemon, guest):
    started(daemon, guest)
    recorded(daemon, "a", 2)
    daemon.env["LC_ALL"] = "C.UTF-8"
    out = daemon.cairn("trend", "a", "memory", "cpu", "--last", "10s").stdout
    assert "memory: average " in out and "MiB" in out and "cpu: average 0%" in out and "┤" in out and "└" in out
    assert any(0x2800 < ord(c) < 0x2900 for c in out)
    assert max(len(line) for line in out.splitlines()) <= 80
    daemon.env["LC_ALL"] = "C"
    out = daemon.cairn("trend", "a", "memory", "--last", "10s").stdout
    assert out.isascii() and "#" in out and " |" in out
    svg = xml.dom.minidom.parseString(daemon.cairn("trend", "a", "memory", "wr-bytes", "--format", "svg").stdout)
    assert len(svg.getElementsByTagName("path")) == 2 * (5 + 2)
    rows = list(csv.DictReader(io.StringIO(daemon.cairn("trend", "a", "cpu", "memory", "--last", "30s", "--step", "1s", "--format", "csv").stdout)))
    assert 30 <= len(rows) <= 31 and set(rows[0]) == {"time", "cpu", "cpu-maximum", "memory", "memory-maximum"}
    assert any(float(r["memory"]) > 1e5 for r in rows if r["memory"])
    # More points than one answer has.
    answer = json.loads(daemon.cairn("trend", "a", "memory", "--last", "2h", "--step", "1s", "--format", "json").stdout)
    assert len(answer["series"][0]["average"]) in (7200, 7201) and "next" not in answer
    assert known(answer["series"][0]["average"])


@pytest.mark.parametrize("args, sentence", [
    (["nonsense"], "there is no series 'nonsense'; use cpu, memory,"),
    (["cpu", "cpu"], "'cpu' is there twice"),
    (["--last", "3y"], "--last must be a time such as 30m, 2h, 1d or 1y, at most two years"),
    (["--from", "tomorrow"], "--from must be"),
    (["--from", "2100-01-01"], "--from must be before --to"),
    (["--step", "1m"], "--step needs --format"),
    (["--last", "1y", "--step", "1s", "--format", "csv"], "more than 1000000 points"),
])
def test_bad_questions_get_a_sentence(fake, args, sentence):
    fake.define("a")
    r = fake.cairn("trend", "a", *args, ok=False)
    assert r.returncode and sentence in r.stderr


def test_vm_that_never_ran_has_none(fake):
    fake.define("a")
    assert "no figures are known for this time" in fake.cairn("trend", "a").stdout
