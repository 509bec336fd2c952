"""A guest that is a hypervisor itself: its own guest continues in snapshots, saved states, clones and a new
process."""

import pytest

import guestlib
from conftest import Console
from test_registers import another_process
from snapshotlib import vm  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(guestlib.host_kind() not in ("svm", "vmx"), reason="KVM gives guests no virtualization here")


def test_revert_leaves_and_enters_the_guests_guest(vm):
    vm.start()
    vm.snapshot("plain")
    vm.run("nest")
    vm.snapshot("nested")
    vm.run("unnest")
    for name in ("nested", "plain", "nested", "nested"):
        vm.revert(name)
        if name == "nested":
            vm.run("unnest")
        else:
            with pytest.raises(AssertionError, match="no hypervisor of the guest's was called"):
                vm.run("unnest")
            vm.run("nest")
    vm.stop()


@pytest.mark.parametrize("when", ["while it runs", "before it goes on"])
def test_reset_ends_the_guests_guest(vm, when):
    vm.start()
    vm.run("nest")
    if when == "before it goes on":
        vm.daemon.cairn("managedsave", "vm1")
        vm.daemon.cairn("start", "vm1", "--paused")
        vm.console.close()
        vm.attach()
    vm.daemon.cairn("reset", "vm1")
    if when == "before it goes on":
        vm.daemon.cairn("resume", "vm1")
    while vm.console.line() != "interp":
        pass
    with pytest.raises(AssertionError, match="no hypervisor of the guest's was called"):
        vm.run("unnest")
    vm.run("nest")
    vm.run("unnest")
    vm.stop()


@pytest.mark.parametrize("how", ["managedsave", "restart-process", "s"])
def test_guests_guest_goes_on_in_another_process(vm, how):
    vm.start()
    vm.run("nest")
    vm.snapshot("s")
    another_process(vm, how)
    vm.run("unnest")
    vm.stop()


def test_guests_guest_goes_on_in_a_clone_and_its_source(vm):
    vm.start()
    vm.run("nest")
    vm.daemon.cairn("clone", "--live", "vm1", "copy")
    copy = Console(vm.daemon, "copy")
    copy.run("unnest")
    copy.close()
    vm.daemon.cairn("destroy", "copy")
    vm.run("unnest")
    vm.stop()
