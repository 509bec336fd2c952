"""Snapshots, reverts, dumps and saves of a VM whose memory is in huge pages: KVM's dirty log is on only while memory is
copied."""

import json

import pytest

from test_dirty_log import MIB, storm_start
from test_dirty_rate import STORM_AT, STORM_BYTES, idle_await, measure_storm
from test_dump import storm_of
from test_host import huge_pages, needs_root  # noqa: F401
from snapshotlib import vm  # noqa: F401 (vm is a fixture)

pytestmark = [pytest.mark.usefixtures("kvm", "huge_pages"), needs_root]

REASON = "memory in huge pages can be tracked only by KVM's dirty log"
FILL_AT = 0x1000000


@pytest.fixture
def vm1(vm):  # noqa: F811
    vm.daemon.cairn("undefine", "vm1")
    vm.define(memory="64M", hugepages=True)
    vm.start()
    yield vm
    vm.stop()


def test_guest_runs_while_memory_is_copied(vm1):
    vm1.run(f"fill {FILL_AT:#x} {8 * MIB:#x} 1")
    for name in ("s1", "s2"):
        s = vm1.snapshot(name)
        assert (s["memory-tracking"], s["memory-tracking-reason"]) == ("huge-pages", REASON)
        assert s["memory-rounds"] >= 1 and s["memory-stopped"] is False and s["pause"] < s["total"]
        # Nothing counts writes between two snapshots.
        assert s["ram-bytes-written"] >= 8 * MIB and s["ram-bytes-shared"] == 0
        vm1.run(f"fill {FILL_AT:#x} {8 * MIB:#x} 2")
    for name, seed in (("s1", 1), ("s2", 2), ("s2", 2), ("s1", 1)):
        r = json.loads(vm1.revert(name, "--format", "json").stdout)
        assert (r["memory-tracking"], r["memory-tracking-reason"]) == ("huge-pages", REASON)
        vm1.run(f"check {FILL_AT:#x} {8 * MIB:#x} {seed}")
        vm1.run(f"fill {FILL_AT:#x} {8 * MIB:#x} 3")
    out = vm1.daemon.cairn("snapshot-create-as", "vm1", "s3").stdout
    assert "The VM ran while its memory was copied in " in out and out.endswith(f", since {REASON}\n")
    assert "memory in huge pages is tracked by KVM's dirty log" in vm1.daemon.log_of("vm1")


@pytest.mark.seconds(120)
def test_copies_of_busy_guest_are_consistent(vm, tmp_path):  # noqa: F811
    storm_start(vm, 8, vcpus=2, hugepages=True, memory="64M")
    vm.snapshot("s1")
    core = tmp_path / "core"
    assert "The VM ran while its memory was copied in " in vm.daemon.cairn("dump", "vm1", str(core)).stdout
    total, numbers = storm_of(core)
    assert total <= sum(numbers) <= total + 1
    vm.run("storm check")
    vm.snapshot("s2")
    for name in ("s1", "s2"):
        vm.revert(name)
        vm.run("storm check")
    vm.console.close()
    vm.daemon.cairn("managedsave", "vm1")
    vm.daemon.cairn("start", "vm1")
    vm.attach()
    vm.run("storm check")
    vm.stop()


def test_dirty_rate_is_measured(vm):  # noqa: F811
    vm.daemon.cairn("undefine", "vm1")
    vm.define(hugepages=True, memory="64M", vcpus=2)
    vm.start()
    idle_await(vm.daemon, "vm1")
    vm.run(f"storm start 1 {STORM_AT:#x} {STORM_BYTES:#x}")
    measure_storm(vm.daemon, "vm1")
    vm.stop()
