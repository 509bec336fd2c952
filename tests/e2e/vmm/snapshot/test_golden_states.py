"""Saved states of earlier format versions (tests/data/golden.py): they load, and damaged ones are refused."""

import os
import sys
import time

import pytest

import guestlib
from conftest import ROOT, Console
from statelib import State

DATA = os.path.join(ROOT, "tests", "data")


@pytest.fixture(params=["1", "1-devices", "2", "2-devices", "2bios-devices", "3", "3-devices", "4-devices", "5-devices",
                        "6", "6-devices", "7", "7-devices", "7-plug", "7-pae", "8-devices", "9-devices"])
def golden(daemon, kvm, guest, tmp_path, request):
    """A state of an earlier or of this format version, of this kind of host, as a file; and its VM: the smallest, or
    one with each device."""
    version, _, devices = request.param.partition("-")
    return golden_state(daemon, guest, tmp_path, guestlib.host_kind(), version, devices and "-" + devices)


def golden_state(daemon, guest, tmp_path, kind, version, devices):
    sys.path.insert(0, DATA)
    import golden as tool
    path = os.path.join(DATA, f"vmstate-{version}-{kind}{devices}.hex")
    if not os.path.exists(path):
        pytest.skip(f"there is no golden state of a host of this kind: {os.path.basename(path)}")
    tool.unpack(open(path).read(), tmp_path / "golden")
    firmware = {"2bios": "bios", "4": "bios", "5": "uefi", "8": "bios", "9": "uefi"}.get(version)
    daemon.define("golden", uuid=tool.UUID, **tool.boot(tmp_path, firmware, guest(tool.kernel_name(devices == "-pae"))),
                  machine=int(version) if version in "3456789" else None if firmware else 1,  # format 2 with a BIOS: a guest keeps machine version 2
                  **({"-devices": tool.devices(tmp_path), "-plug": tool.PLUG}.get(devices, {})))
    return tmp_path / "golden"


@pytest.mark.skipif(guestlib.host_kind() != "pvm", reason="this host virtualises CPUID, and restores the state")
@pytest.mark.parametrize("devices", ["", "-devices"])
def test_golden_state_of_baseline_is_refused_by_name(daemon, kvm, guest, tmp_path, devices):
    state = golden_state(daemon, guest, tmp_path, "svm", "2", devices)
    error = daemon.cairn("restore", str(state), ok=False).stderr
    assert "saved on a host whose KVM virtualises CPUID; this host's does not, and the guest would see the processor " \
        "itself (more than it knows: " in error
    assert daemon.info("golden")["word"] in ("shutoff", "crashed")


GENERATION_IDS = 0xff000, 0xaf000  # address of the 16 bytes that each restore and each start change; with a firmware
TIMES = ("machine", "cpu", "vcpu", "pit", "clock", "rtc", "acpi-pm")  # sections that depend on the host or hold a time


def hardware(path):
    """Return what a guest sees that has only written a byte: memory with the ACPI tables, and each device's state."""
    state = State(path.read_bytes())
    at, size = (int.from_bytes(state.data[i:i + 8], "little") for i in (40, 48))
    ram = state.data[at:at + size]
    for gpa in GENERATION_IDS:
        ram[gpa:gpa + 16] = bytes(16)
    return {"memory": bytes(ram), "names": [s[:2] for s in state.sections if s[0] != "cpu"],
            **{f"{s[0]} {s[1]}": s[2:] for s in state.sections if s[0] not in TIMES}}


@pytest.mark.parametrize("golden", ["2", "2-devices", "3", "3-devices", "4-devices", "5-devices", "6", "6-devices", "7", "7-devices", "7-plug", "7-pae",
                                    "8-devices", "9-devices"], indirect=True)
def test_machine_is_that_of_golden_states_of_its_version(daemon, golden, tmp_path):
    """A change of what the guest sees needs a new machine version, with golden states of its own."""
    then = hardware(golden)
    daemon.cairn("start", "golden")
    assert Console(daemon, "golden").sock.recv(1) == b"A"
    daemon.cairn("save", "golden", str(tmp_path / "new"))
    now = hardware(tmp_path / "new")
    assert [name for name in {**then, **now} if then.get(name) != now.get(name)] == []


def test_restored_golden_state_is_saved_again(daemon, golden, tmp_path):
    """The saved state has the same registers, memory and devices."""
    daemon.cairn("restore", str(golden), "--paused")
    daemon.cairn("save", "golden", str(tmp_path / "again"))
    then, now = hardware(golden), hardware(tmp_path / "again")
    assert [name for name in {**then, **now} if then.get(name) != now.get(name)] == []
    registers = 4 + 18 * 8 + 8 * 23 + 2 * 10 + 7 * 8  # up to apic_base (docs/vmstate.md)
    vcpus = [State(p.read_bytes()).section("vcpu")[3][:registers] for p in (golden, tmp_path / "again")]
    assert vcpus[0] == vcpus[1]


def test_a_golden_state_is_restored(daemon, golden):
    daemon.cairn("restore", str(golden))
    assert daemon.cairn("domstate", "golden", "--reason").stdout in (
        "idle (restored)\n", "running (restored)\n")
    time.sleep(0.2)
    assert daemon.info("golden")["word"] in ("idle", "running")
    daemon.cairn("destroy", "golden")
    daemon.cairn("restore", str(golden), "--eager", "--paused")
    assert daemon.cairn("domstate", "golden").stdout == "paused\n"


def test_a_golden_state_with_page_directory_pointers_goes_on(daemon, kvm, guest, tmp_path):
    state = golden_state(daemon, guest, tmp_path, guestlib.host_kind(), "7", "-pae")
    assert State(state.read_bytes()).section("vcpu")[2] == 3
    daemon.cairn("restore", str(state))
    console = Console(daemon, "golden").sock
    console.sendall(b"x")
    while console.recv(1) != b"x":
        pass
    daemon.cairn("destroy", "golden")


def test_a_damaged_golden_state_is_refused(daemon, golden):
    def status():
        return daemon.cairn("restore", str(golden), "--eager", ok=None).returncode

    whole = golden.read_bytes()
    # Header, a section, the checksums, memory (which --eager reads first); each truncated as well.
    for at in (8, 50, 4096 + 30, 4096 + 5000, 0x1000000, min(0x1200000 + 0x100000, len(whole) - 4096)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        golden.write_bytes(damaged)
        assert status() in (1, 7), at
        assert daemon.info("golden")["word"] in ("shutoff", "crashed"), at
        golden.write_bytes(whole[:at])
        assert status() in ((2,) if at < 4096 else (1, 7)), at  # without a complete header it is no saved state
    golden.write_bytes(whole)
    assert status() == 0
