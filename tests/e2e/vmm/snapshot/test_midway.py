"""A guest in the middle of something: a handler of an NMI, a processor that waits for its start, half-written registers
of devices. It continues from there after a revert, in another process and in a clone."""

import os
import string
import subprocess

import pytest

import guestlib
from conftest import Console, Qmp, until
from test_registers import another_process, has_avx
from snapshotlib import vm  # noqa: F401 (a fixture)
from test_uefi import BASE, uefi  # noqa: F401 (a fixture)

X2APIC = {0x320: 0x20040, 0x3e0: 0x1, 0x380: 1000000}  # the timer, periodic
PARAVIRTUAL = {0x4b564d03: 0x2100001, 0x4b564d04: 0x2101001}  # the MSRs of stolen time and of the end of an interrupt
UNUSED = 0x10  # the slot of a disk
letters = iter(string.ascii_letters)


def number(vm, command):
    return int(vm.run(command)[0], 16)


def bar(vm):
    return number(vm, f"cfgrd {UNUSED} 0x10") & ~15


def cmos_set(vm, register, value):
    vm.run(f"outb 0x70 {register}")
    vm.run(f"outb 0x71 {value}")


def registers_set(vm):
    for register, value in PARAVIRTUAL.items():
        vm.run(f"wrmsr {register} {value}")
    return has_avx(vm) and vm.run("xstate show 9") and vm.run("xstate show")


def registers_check(vm, xstate):
    assert {r: number(vm, f"rdmsr {r}") for r in PARAVIRTUAL} == PARAVIRTUAL
    assert not xstate or vm.run("xstate show") == xstate


def processors_set(vm):
    vm.run("smp count 1")
    while len(vm.run("smp show")) < 2:
        pass
    vm.run("ipi 1 0x4500")  # INIT: the second one waits for its start
    vm.run("x2apic 1")
    for register, value in X2APIC.items():
        vm.run(f"lapic {register} {value}")
    vm.run("wait 1")
    return vm.run("regs set 5") + vm.run("smp show")


def processors_check(vm, want):
    assert vm.run("regs show") + vm.run("smp show") == want
    assert {r: number(vm, f"lapic {r}") for r in X2APIC} == X2APIC
    vm.run("wait 2")
    vm.run("ipi 1 0x4608")  # SIPI
    while vm.run("smp show") == want[-2:]:
        pass
    vm.run("ipi 1 0x4500")
    vm.run("x2apic 0")
    vm.run("lapic 0x320 0x20040")
    vm.run("lapic 0x380 1000000")
    vm.run("wait 2")


def ports_set(vm):
    cmos_set(vm, 0xb, 0x82)  # the clock stands still; 31 February is half a date
    cmos_set(vm, 8, 0x02)
    cmos_set(vm, 7, 0x31)
    vm.run("outb 0x70 0x08")
    vm.run("outb 0xa0 0x11")  # ICW1 and ICW2 of four
    vm.run("outb 0xa1 0x70")
    vm.run("outb 0x64 0x60")  # the next byte is the keyboard controller's command byte
    vm.run("outl 0xcf8 0x80001010")


def ports_check(vm):
    assert number(vm, "inb 0x71") == 0x02
    assert number(vm, "inl 0xcfc") == 0xffffc000
    cmos_set(vm, 8, 0x03)
    assert number(vm, "inb 0x71") == 0x03
    vm.run("outb 0x70 7")
    assert number(vm, "inb 0x71") == 0x31
    for value in (2, 1, 0xfb):  # ICW3, ICW4 and the mask
        vm.run(f"outb 0xa1 {value}")
    assert number(vm, "inb 0xa1") == 0xfb
    vm.run("outb 0x60 0x65")
    vm.run("outb 0x64 0x20")
    assert number(vm, "inb 0x60") == 0x65


def disk_set(vm):
    """Bring the disk's driver to the middle of its start; then the disk's address is being measured."""
    at = bar(vm)
    for bits, offset, value in ((8, 20, 3), (32, 0, 1), (32, 8, 1), (32, 12, 1), (32, 8, 0), (32, 12, 0x12345678),
                                (16, 24, 64), (32, 32, 0x12345), (32, 36, 0x77), (16, 22, 0x7777), (16, 16, 1)):
        vm.run(f"wr{bits} {at + offset} {value}")
    words = [vm.run(f"rd32 {at + offset}") for offset in range(0, 56, 4)]
    vm.run(f"cfgwr {UNUSED} 0x10 0xffffffff")
    return at, words


def disk_check(vm, at, words):
    vm.run(f"cfgwr {UNUSED} 0x10 {at}")
    assert [vm.run(f"rd32 {at + offset}") for offset in range(0, 56, 4)] == words
    vm.run(f"wr16 {at + 22} 0")
    assert number(vm, f"rd16 {at + 24}") == 64
    assert (number(vm, f"rd32 {at + 32}"), number(vm, f"rd32 {at + 36}")) == (0x12345, 0x77)
    vm.run(f"wr32 {at + 12} 0")
    vm.run(f"wr8 {at + 20} 0xb")
    assert number(vm, f"rd8 {at + 20}") == 0xb  # FEATURES_OK


def interrupts(vm):
    return [line for line in vm.run("irqs") if "vector=0x2e " in line]


def interrupt_set(vm):
    """Have a level-triggered line up that the IOAPIC masks. The guest's handler of `line` lowers it."""
    vm.run("line level")
    vm.run("wr32 0xfec00000 0x2c")
    vm.run("wr32 0xfec00010 0x1802e")
    vm.run("outb 0x200e 1")
    return interrupts(vm)


def interrupt_check(vm, before):
    assert interrupts(vm) == before
    vm.run("wr32 0xfec00010 0x802e")
    assert interrupts(vm) != before


def hold(vm):
    """Let the guest wait for a byte in its handler of an NMI, while another NMI waits."""
    vm.console.sock.sendall(b"nmi\n")
    while vm.console.line() != "holding":
        pass


def release(vm):
    byte = next(letters)  # the history has the answers to others
    vm.console.sock.sendall(byte.encode())
    while vm.console.line() != f"byte={byte} inside=1":
        pass
    assert [vm.console.line() for _ in range(2)] == ["after=2", "ok"]
    vm.console.has_history = False


def check_everywhere(vm, check):
    """Take a snapshot and let the guest go on from there, in each way."""
    vm.name = "vm1"
    vm.snapshot("s")
    check()
    for how in (None, "s", "restart-process", "managedsave"):
        if how != "s":
            vm.revert("s")
        if how:
            another_process(vm, how)
        check()
    vm.revert("s")
    vm.daemon.cairn("clone", "--live", "vm1", "copy")
    vm.console.close()
    vm.console = Console(vm.daemon, "copy")
    vm.name = "copy"
    check()
    vm.daemon.cairn("destroy", "copy")
    vm.stop()


def test_guest_goes_on_in_the_middle(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define(vcpus=2)
    vm.start()
    interrupt = interrupt_set(vm)
    disk = disk_set(vm)
    ports_set(vm)
    xstate = registers_set(vm)
    want = processors_set(vm)
    hold(vm)

    def check():
        release(vm)
        registers_check(vm, xstate)
        ports_check(vm)
        disk_check(vm, *disk)
        interrupt_check(vm, interrupt)
        processors_check(vm, want)

    check_everywhere(vm, check)


def begin(vm, command):
    """Send a command and wait until the guest is in the middle of it."""
    vm.console.sock.sendall(f"{command}\n".encode())
    while vm.console.line() != "holding":
        pass


def end(vm, begins):
    """Return the line of the command's answer that begins so."""
    while not (line := vm.console.line()).startswith(begins):
        pass
    assert vm.console.line() == "ok"
    vm.console.has_history = False
    return line


def irq_count(vm, vector):
    return next((line for line in vm.run("irqs") if line.startswith(f"vector={vector:#x} ")), "count=0").split("count=")[1]


def test_guest_that_steps_itself_goes_on(vm):
    """Each instruction of its loop raises one debug exception. Where KVM emulates kernel mode, the guest does one of
    four itself, and breakpoints of its user mode have no effect."""
    emulated = guestlib.host_kind() == "pvm"
    vm.start()
    begin(vm, "step")

    def check():
        byte = next(letters)
        vm.console.sock.sendall(byte.encode())
        loops, steps, hits = (int(word.split("=")[1], 0) for word in end(vm, f"byte={byte} ").split()[1:])
        assert steps == (3 if emulated else 4) * loops + 3
        assert hits == (0 if emulated else 3)

    check_everywhere(vm, check)


def test_timer_of_a_halted_guest_fires_once(vm):
    vm.start()
    vm.run("rtc 6")
    begin(vm, "deadline 6000000000")

    def check():
        vm.console.has_history = True  # the answer to `deadline` comes first
        assert irq_count(vm, 0x40) == "1"
        assert vm.run("deadline") == ["early=0"]
        before = irq_count(vm, 0x28)
        while irq_count(vm, 0x28) == before:
            pass

    check_everywhere(vm, check)


def test_half_full_buffer_of_the_serial_port(vm):
    vm.start()
    begin(vm, "fifo")

    def check():
        q = Qmp(vm.daemon.cairn("qmp-path", vm.name).stdout.rstrip("\n"))
        q.run("inject-nmi")
        q.close()
        assert end(vm, "fifo=") == "fifo=abcdefgh"

    check_everywhere(vm, check)


def test_processors_that_interrupt_each_other_go_on(vm):
    vm.define(vcpus=2)
    vm.start()
    vm.run("smp count 1")
    while len(vm.run("smp show")) < 2:
        pass
    vm.run("ping start 100")

    def check():
        twice, backwards, stable = (int(word.split("=")[1]) for word in vm.run("ping wait 100")[0].split())
        assert not twice
        assert not backwards or not stable

    check_everywhere(vm, check)


@pytest.mark.parametrize("disk,opens,work", [
    ({}, "open 1", "randwrite"), ({"bus": "scsi"}, "sopen 0 512", "randwrite"),
    ({"bus": "scsi", "device": "cdrom", "format": "raw"}, "sopen 0 2048", "randread")])
def test_requests_to_a_disk_are_answered_once(vm, tmp_path, disk, opens, work):
    """By the limit of its disk, most of them wait or are in flight."""
    name, limit = "sdb" if "bus" in disk else "vdb", 4
    with open(tmp_path / "more", "wb") as f:
        f.truncate(4 << 20)
    if "format" not in disk:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "more", "4M"], check=True)
    vm.define(disks=[{"path": str(vm.disks[0]), "format": "qcow2"},
                     {"id": name, "path": str(tmp_path / "more"), "format": "qcow2", "iops": limit, **disk}])
    vm.start()
    vm.run(opens)
    vm.console.sock.sendall(f"bench {work} 32 600 4096 2048 1\n".encode())
    until(lambda: sum(vm.daemon.figures("vm1")["disks"][1][key] for key in ("rd-reqs", "wr-reqs")) > 2)

    def limit_set(iops):
        vm.daemon.cairn("blkdeviotune", vm.name, name, "--total-iops-sec", str(iops), "--live")

    def check():
        limit_set(0)
        word, lines = os.urandom(4).hex(), [""]
        vm.console.sock.sendall(f"echo {word}\n".encode())
        while not lines[-1].endswith(word):
            lines.append(vm.console.line())
        results = [line for line in lines if line.startswith("requests=")]
        assert results and all(line.startswith("requests=600 errors=0 ") for line in results), lines
        assert vm.console.line() == "ok"
        vm.console.has_history = False
        if work == "randwrite":
            vm.run("write 8 1 7")
            vm.run("verify 8 1 7")
        limit_set(limit)

    check_everywhere(vm, check)


def firmware(vm, command):
    """Have the firmware of tests/guests/bare/flash_rom.c obey."""
    vm.console.sock.sendall(f"{command}\n".encode())


def firmware_read(vm, command):
    """Return the number that the firmware's command prints."""
    word = os.urandom(4).hex()
    firmware(vm, f"n {word}")
    while vm.console.line() != word:
        pass
    firmware(vm, command)
    return int(vm.console.line(), 16)


def test_firmware_that_writes_a_variable_and_reads_a_file_goes_on(vm, uefi):  # noqa: F811
    """The firmware has sent the command to write a byte of flash memory, and has read half of fw_cfg's signature."""
    vm.define(memory="16M", boot=uefi)
    vm.daemon.cairn("start", "vm1")
    vm.attach()
    firmware(vm, "o 510 0")
    assert bytes(firmware_read(vm, "i 511") for _ in range(2)) == b"QE"
    firmware(vm, f"w {BASE + 5:x} 10")
    assert firmware_read(vm, f"r {BASE + 5:x}") == 0  # its status

    def check():
        firmware(vm, f"w {BASE + 5:x} 42")
        firmware(vm, f"w {BASE + 5:x} ff")
        assert firmware_read(vm, f"r {BASE + 5:x}") == 0x42
        assert bytes(firmware_read(vm, "i 511") for _ in range(2)) == b"MU"

    check_everywhere(vm, check)
