"""Registers of the guest's processor that are easily lost: they come back in the same process and in another one."""

import os
import subprocess

import pytest

import guestlib
from conftest import Console
from snapshotlib import vm  # noqa: F401 (a fixture)

STATES = os.path.join(guestlib.BUILD, "unit/vmm/kvm/test_vcpu_state")
WALL_CLOCK = 0x4b564d00  # the MSR that has KVM write the time of the guest's start
# MSRs that KVM does not name among those to save
UNLISTED = {
    0x2ff: 0xc06,  # the MTRRs' default type; then a fixed one, and one of the variable ones
    0x250: 0x0606060606060606,
    0x26f: 0x0505050505050505,
    0x200: 0xc0000000,
    0x201: 0xffc0000800,
}


def msrs(vm):
    return {msr: int(vm.run(f"rdmsr {msr:#x}")[0], 16) for msr in UNLISTED}


def msrs_set(vm, values):
    for msr, v in values.items():
        vm.run(f"wrmsr {msr:#x} {v:#x}")


def another_process(vm, how):
    """Let another process continue the VM. how: a verb, or the name of a snapshot."""
    if how == "restart-process":
        vm.daemon.cairn(how, "vm1")
    elif how == "managedsave":
        vm.daemon.cairn(how, "vm1")
        vm.daemon.cairn("start", "vm1")
    else:
        vm.daemon.cairn("destroy", "vm1")
        vm.daemon.cairn("snapshot-revert", "vm1", how, "--running")
    vm.console.close()
    vm.attach()


def test_revert_brings_msrs_back_that_kvm_does_not_list(vm):
    vm.start()
    before = msrs(vm)
    vm.snapshot("before")
    msrs_set(vm, UNLISTED)
    assert msrs(vm) == UNLISTED
    vm.snapshot("s")
    msrs_set(vm, dict.fromkeys(UNLISTED, 0))
    vm.snapshot("zero")
    vm.revert("before")
    assert msrs(vm) == before
    vm.revert("s")
    assert msrs(vm) == UNLISTED
    vm.revert("zero")
    assert msrs(vm) == dict.fromkeys(UNLISTED, 0)
    another_process(vm, "s")
    assert msrs(vm) == UNLISTED
    another_process(vm, "zero")
    assert msrs(vm) == dict.fromkeys(UNLISTED, 0)
    vm.stop()


@pytest.mark.parametrize("how", ["managedsave", "restart-process"])
def test_another_process_has_msrs_that_kvm_does_not_list(vm, how):
    vm.start()
    msrs_set(vm, UNLISTED)
    another_process(vm, how)
    assert msrs(vm) == UNLISTED
    vm.stop()


def test_clone_has_msrs_that_kvm_does_not_list(vm):
    vm.start()
    msrs_set(vm, UNLISTED)
    vm.daemon.cairn("clone", "--live", "vm1", "copy")
    source, vm.console = vm.console, Console(vm.daemon, "copy")
    assert msrs(vm) == UNLISTED
    vm.console.close()
    vm.daemon.cairn("destroy", "copy")
    vm.console = source
    vm.stop()


@pytest.mark.skipif(not os.path.exists(STATES), reason="make units builds this program")
def test_states_of_processors_without_a_guest(kvm):
    """The unit program, which skips most where KVM emulates kernel mode, and which no other test runs elsewhere."""
    subprocess.run([STATES], check=True)


# MSRs that a guest's kernel sets
CHANGED = {
    **UNLISTED,
    0xc0000081: 0x23001000000000,  # STAR and what belongs to it
    0xc0000082: 0xffffffff81000000,
    0xc0000083: 0xffffffff81001000,
    0xc0000084: 0x47700,
    0xc0000102: 0xffff888000000000,
    0x174: 0x10,
    0x175: 0x2000,
    0x176: 0xffffffff81002000,
    0x277: 0x0407050600070106,
}
NOT_EVERYWHERE = {0x3b: 1 << 40, 0x48: 1, 0xc0000103: 5}


def msr(vm, index):
    """Return the guest's MSR; None: the guest has none."""
    try:
        return int(vm.run(f"rdmsr {index:#x}")[0], 16)
    except AssertionError:
        return None


def has_avx(vm):
    return int(vm.run("cpuid 1")[0].split("ecx=")[1].split()[0], 16) & 1 << 28


@pytest.mark.parametrize("how", ["by the guest", "by the host", "after a restore"])
def test_reset_clears_registers(vm, how):
    vm.start()
    values = CHANGED | {i: v for i, v in NOT_EVERYWHERE.items() if msr(vm, i) is not None}
    before = {i: msr(vm, i) for i in values}
    msrs_set(vm, values)
    assert {i: msr(vm, i) for i in CHANGED} == CHANGED
    if has_avx(vm):
        vm.run("xstate show 9")
        assert " ymm=0x9,0xa,0xb,0xc " in vm.run("xstate show")[0]
    if how == "after a restore":
        vm.daemon.cairn("managedsave", "vm1")
        vm.daemon.cairn("start", "vm1", "--paused")
        vm.console.close()
        vm.attach()
    if how == "by the guest":
        vm.console.sock.sendall(b"reset cf9\n")
    else:
        vm.daemon.cairn("reset", "vm1")
    if how == "after a restore":
        vm.daemon.cairn("resume", "vm1")
    while vm.console.line() != "interp":
        pass
    assert {i: msr(vm, i) for i in values} == before
    if has_avx(vm):
        shown = vm.run("xstate show")[0]
        assert shown.endswith(" ymm=0x0,0x0,0x0,0x0 zmm=0x0 k=0x0"), shown
        # Where the processor itself answers, it has the host's XCR0.
        assert shown.startswith("before=0x1 ") or not guestlib.virtualises_cpuid(), shown
    vm.stop()


def test_memory_that_had_the_wall_clock_stays_the_guests(vm):
    """A load must not make KVM write the time there again: the guest may use the memory for something else."""
    vm.start()
    vm.run(f"wrmsr {WALL_CLOCK:#x} 0x2000000")
    vm.run("fill 0x2000000 4096 7")
    vm.snapshot("s")
    vm.revert("s")
    vm.run("check 0x2000000 4096 7")
    another_process(vm, "s")
    vm.run("check 0x2000000 4096 7")
    another_process(vm, "managedsave")
    vm.run("check 0x2000000 4096 7")
    vm.stop()
