"""The dirty rate: `cairn domdirtyrate-calc`, its keys of `cairn domstats`, and QEMU's commands. The guest is the
bare-metal interpreter; a second vCPU writes to a known part of its memory without a pause. The unit test of
vmm/kvm/page_samples.c has which pages count as changed."""

import json
import os
import re
import signal
import time

import pytest

import guestlib
from clonelib import own_kib
from conftest import Qmp, QmpError, until
from forklib import AT, FILL, MIB, image, vm  # noqa: F401 (vm is a fixture)

STORM_AT, STORM_BYTES = 32 * MIB, 4 * MIB
START = "Start to calculate domain's memory dirty rate successfully.\n"


def stats(daemon, name="src"):
    """Return the keys of dirtyrate, without their prefix."""
    out = json.loads(daemon.cairn("domstats", name, "--dirtyrate", "--format", "json").stdout)[0]
    assert out.pop("name") == name
    return {k.removeprefix("dirtyrate."): v for k, v in out.items()}


def measured(daemon, name="src"):
    """Wait for the end of the measurement, and return its keys."""
    until(lambda: stats(daemon, name).get("calc_status") == 2)
    return stats(daemon, name)


def measure(daemon, name="src", seconds=1):
    """Return the bytes a second."""
    assert daemon.cairn("domdirtyrate-calc", name, "--seconds", str(seconds)).stdout == START
    measured(daemon, name)
    return daemon.figures(name)["dirty-rate"]["bytes-per-second"]


def idle_await(daemon, name="src"):
    """Wait until the guest writes nothing. After an answer it may still, if its vCPU waits for a processor."""
    until(lambda: measure(daemon, name) == 0)


def measure_storm(daemon, name="src"):
    """Measure while a vCPU writes each page of STORM_BYTES many times in three seconds, also where memory is written
    slowly. Samples of 32 pages each lie there, and those at the ends may or may not. Return the bytes a second."""
    begin = time.monotonic()
    rate = measure(daemon, name, seconds=3)
    # On a loaded host, the time between the looks is longer, but not than this; or half as long, on the average, if
    # the first look takes as long as the measurement.
    assert STORM_BYTES / (time.monotonic() - begin) / 2 < rate < STORM_BYTES / 3 * 2 * 34 / 32, rate
    return rate


def refused(daemon, *args):
    return daemon.cairn("domdirtyrate-calc", *args, ok=False).stderr


def qmp(daemon):
    q = Qmp(daemon.cairn("qmp-path", "src").stdout.rstrip("\n"))
    daemon.clients.append(q)
    return q


def test_idle_guest_has_no_dirty_rate(vm, daemon):  # noqa: F811
    vm.start()
    daemon.figures("src")
    assert stats(daemon) == {"calc_status": 0, "calc_start_time": 0, "calc_period": 0, "calc_mode": "page-sampling"}
    idle_await(daemon)
    assert daemon.cairn("domdirtyrate-calc", "src").stdout == START
    end = measured(daemon)
    start = end.pop("calc_start_time")
    assert end == {"calc_status": 2, "calc_period": 1, "megabytes_per_second": 0, "calc_mode": "page-sampling"}
    assert daemon.figures("src")["dirty-rate"] == {"status": "measured", "start-time": start, "seconds": 1,
                                                   "sample-pages": 512, "bytes-per-second": 0}
    out = daemon.cairn("domstats", "src").stdout
    assert out.endswith(f"  dirtyrate.calc_status=2\n  dirtyrate.calc_start_time={start}\n  dirtyrate.calc_period=1\n"
                        "  dirtyrate.megabytes_per_second=0\n  dirtyrate.calc_mode=page-sampling\n\n")
    metrics = daemon.cairn("metrics").stdout
    assert 'cairn_domain_dirty_rate_bytes_per_second{domain="src"} 0\n' in metrics
    assert f'cairn_domain_dirty_rate_start_timestamp_seconds{{domain="src"}} {start}\n' in metrics
    daemon.cairn("suspend", "src")
    assert measure(daemon) == 0
    daemon.cairn("destroy", "src")
    assert stats(daemon) == {}


def test_rate_of_busy_guest_is_that_of_its_pages(vm, daemon):  # noqa: F811
    vm.start(vcpus=2)
    vm.run("src", f"storm start 1 {STORM_AT} {STORM_BYTES}")
    rate = measure_storm(daemon)
    assert stats(daemon)["megabytes_per_second"] == rate // MIB
    vm.run("src", "storm check")


def test_absent_memory_stays_absent(vm, daemon):  # noqa: F811
    vm.start(memory="1G")
    before = own_kib(daemon, "src")
    assert before < 64 << 10
    q = qmp(daemon)
    q.run("calc-dirty-rate", **{"calc-time": 1, "sample-pages": 16384})
    until(lambda: q.run("query-dirty-rate")["status"] == "measured")
    assert own_kib(daemon, "src") == before
    q.close()


@pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")
def test_memory_in_an_image_is_not_loaded(vm, daemon, tmp_path):  # noqa: F811
    """Only the guest's accesses load the memory."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("snapshot-create-as", "src", "s1")
    full = own_kib(daemon, "src")
    daemon.cairn("reclaim", "src")
    before = own_kib(daemon, "src")
    assert full - before > FILL // 2 // 1024
    assert measure(daemon) // MIB == 0
    assert own_kib(daemon, "src") - before < 256
    vm.holds("src", AT, FILL, 1)


def test_shared_memory_of_clone_is_not_touched(vm, daemon):  # noqa: F811
    vm.start()
    vm.clone("copy")
    vm.run("copy", f"fill {AT} {MIB} 2")
    pid, before = daemon.info("copy")["pid"], own_kib(daemon, "copy")
    blocks = fork_blocks(pid)
    idle_await(daemon, "copy")
    assert (own_kib(daemon, "copy"), fork_blocks(pid)) == (before, blocks)
    vm.holds("copy", AT, MIB, 2)
    vm.holds("copy", AT + MIB, FILL - MIB, 1)


def fork_blocks(pid):
    """Return the blocks of the file that a clone's memory maps."""
    files = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    found = {os.stat(f).st_blocks for f in files if "memfd:cairn-fork" in os.readlink(f)}
    assert len(found) == 1
    return found.pop()


def test_memory_given_to_the_balloon_has_not_changed(vm, daemon):  # noqa: F811
    vm.start(balloon=True)
    vm.run("src", "balloon open")
    daemon.cairn("domdirtyrate-calc", "src", "--seconds", "3")
    vm.run("src", f"balloon inflate {AT} {FILL}")
    assert measured(daemon)["megabytes_per_second"] == 0


def test_values_and_states_are_refused(vm, daemon):  # noqa: F811
    vm.start()
    daemon.define("off", memory="64M", boot={"kernel": vm.kernel})
    assert "VM 'off' is shut off; domdirtyrate-calc works when it is running, paused or in shutdown" in refused(daemon, "off")
    for n in ("0", "61", "-1", "99999999999999999999"):
        assert "seconds: give 1 to 60 seconds" in refused(daemon, "src", "--seconds", n), n
    for n in ("", "x", "1s"):
        assert f'--seconds must be a number of seconds, not "{n}"' in refused(daemon, "src", "--seconds", n)
    assert '--mode must be page-sampling, not "dirty-ring"' in refused(daemon, "src", "--mode", "dirty-ring")
    q = qmp(daemon)
    for args, text in (({"calc-time": 0}, "calc-time: give 1 to 60 seconds"), ({"calc-time": 61}, "calc-time: give 1"),
                       ({"calc-time": 1, "sample-pages": 127}, "sample-pages: give 128 to 16384 pages of each GiB"),
                       ({"calc-time": 1, "sample-pages": 1 << 40}, "sample-pages: give 128"),
                       ({"calc-time": 1, "mode": "dirty-bitmap"}, "mode: 'dirty-bitmap' is not offered; use page-sampling")):
        with pytest.raises(QmpError, match=re.escape(text)):
            q.run("calc-dirty-rate", **args)
    assert q.run("query-dirty-rate") == {"status": "unstarted", "start-time": 0, "calc-time": 0, "sample-pages": 0,
                                         "mode": "page-sampling"}
    # One at a time.
    assert q.run("calc-dirty-rate", **{"calc-time": 60, "mode": "page-sampling"}) == {}
    now = q.run("query-dirty-rate")
    assert now.pop("start-time") == stats(daemon)["calc_start_time"] > 1500000000
    assert now == {"status": "measuring", "calc-time": 60, "sample-pages": 512, "mode": "page-sampling"}
    assert "the dirty rate is being measured already, for 60 s" in refused(daemon, "src")
    assert stats(daemon)["calc_status"] == 1 and "megabytes_per_second" not in stats(daemon)
    q.close()


def test_measurement_ends_when_memory_is_replaced(vm, daemon, tmp_path):  # noqa: F811
    """A reset, a revert and a start from a saved state replace memory; a suspend and a snapshot do not end the
    measurement."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("domdirtyrate-calc", "src", "--seconds", "60")
    daemon.cairn("snapshot-create-as", "src", "s1")
    daemon.cairn("suspend", "src")
    daemon.cairn("resume", "src")
    assert stats(daemon)["calc_status"] == 1
    daemon.cairn("snapshot-revert", "src", "s1")
    assert stats(daemon)["calc_status"] == 0
    daemon.cairn("domdirtyrate-calc", "src", "--seconds", "60")
    daemon.cairn("snapshot-revert", "src", "s1")  # memory that is unchanged stays in place
    assert stats(daemon)["calc_status"] == 0
    daemon.cairn("domdirtyrate-calc", "src", "--seconds", "60")
    daemon.cairn("reset", "src")
    until(lambda: stats(daemon)["calc_status"] == 0)
    measure(daemon)
    daemon.cairn("managedsave", "src")
    daemon.cairn("start", "src")
    daemon.figures("src")
    assert stats(daemon)["calc_status"] == 0
    measure(daemon)


def test_measurement_outlives_the_daemon(vm, daemon):  # noqa: F811
    vm.start()
    daemon.cairn("domdirtyrate-calc", "src", "--seconds", "60")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.figures("src")
    assert stats(daemon)["calc_status"] == 1
    daemon.cairn("restart-process", "src")  # the new process has none
    daemon.figures("src")
    assert stats(daemon)["calc_status"] == 0
    measure(daemon)
    before = stats(daemon)
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.figures("src")
    assert stats(daemon) == before
