"""A guest in the middle of something: a handler of an NMI, a processor that waits for its start, half-written registers
of devices. It continues from there after a revert, in another process and in a clone."""

import string

from conftest import Console
from test_registers import another_process
from test_snapshot import vm  # noqa: F401 (a fixture)

X2APIC = {0x320: 0x20040, 0x3e0: 0x1, 0x380: 1000000}  # the timer, periodic
UNUSED = 0x10  # the slot of a disk
letters = iter(string.ascii_letters)


def number(vm, command):
    return int(vm.run(command)[0], 16)


def bar(vm):
    return number(vm, f"cfgrd {UNUSED} 0x10") & ~15


def cmos_set(vm, register, value):
    vm.run(f"outb 0x70 {register}")
    vm.run(f"outb 0x71 {value}")


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


def test_guest_goes_on_in_the_middle(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define(vcpus=2)
    vm.start()
    interrupt = interrupt_set(vm)
    disk = disk_set(vm)
    ports_set(vm)
    want = processors_set(vm)
    hold(vm)
    vm.snapshot("s")

    def check():
        release(vm)
        ports_check(vm)
        disk_check(vm, *disk)
        interrupt_check(vm, interrupt)
        processors_check(vm, want)

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
    check()
    vm.daemon.cairn("destroy", "copy")
    vm.stop()
