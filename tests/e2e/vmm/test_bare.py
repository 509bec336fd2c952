"""Bare-metal guests under `cairn run`: the machine's parts one by one, and everything a guest may do wrong. Each
case ends in a named state with a named reason."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import time

import pytest

import guestlib
from conftest import until
from guestlib import Guest, GuestError, definition, disk, interp

KIND = guestlib.host_kind()
pytestmark = [
    pytest.mark.skipif(KIND == "none", reason="no usable /dev/kvm"),
    pytest.mark.seconds(120),
]

SECTOR = 512
NEEDS_RESET = 0x40


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with open(path, "wb") as f:
        f.truncate(16 << 20)
    return str(path)


@pytest.fixture
def guest(image):
    with interp(disks=[disk(image, serial="cairn-0001")]) as g:
        yield g


def run_to_end(**more):
    """Run a definition that should be refused; return status and log."""
    with Guest(definition(**more)) as g:
        return g.wait(), g.log()


# ---- the machine ----

def test_first_byte():
    with Guest(definition(guest="first_byte")) as g:
        g.expect("A")


def test_start_info(tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"not an archive" * 1000)
    boot = {"kernel": guestlib.bare("interp"), "cmdline": "echo from-the-cmdline", "initrd": str(initrd)}
    with interp(boot=boot) as g:
        assert g.answer() == ["from-the-cmdline"]
        lines = g.command("start")
        assert "modules=1" in lines[0]
        module = guestlib.fields(lines[1])
        assert module["bytes"] == initrd.stat().st_size
        assert g.number(f"rd32 {module['initrd']:#x}") == struct.unpack("<I", b"not ")[0]
        rsdp = guestlib.fields(lines[0])["rsdp"]
        assert g.number(f"rd64 {rsdp:#x}") == struct.unpack("<Q", b"RSD PTR ")[0]


@pytest.mark.parametrize("memory, low, high", [("16M", 16 << 20, 0), ("3G", 3 << 30, 0), ("5G", 3 << 30, 2 << 30)])
def test_memory_map(memory, low, high):
    with interp(memory=memory) as g:
        ram = [guestlib.fields(l) for l in g.command("memmap")]
        ends = [r["gpa"] + r["bytes"] for r in ram if r["type"] == 1]
        assert max(e for e in ends if e <= 1 << 32) == low
        assert sum(r["bytes"] for r in ram if r["type"] == 1 and r["gpa"] >= 1 << 32) == high
        places = [low - (1 << 20)] + ([(1 << 32), (1 << 32) + high - (1 << 20)] if high else [])
        for seed, gpa in enumerate(places):
            g.command(f"fill {gpa:#x} 0x100000 {seed}")
        for seed, gpa in enumerate(places):
            g.command(f"check {gpa:#x} 0x100000 {seed}")
        with pytest.raises(GuestError, match="differs"):
            g.command(f"check {places[0]:#x} 0x100000 77")


def test_pit_ticks(guest):
    guest.command("pit 200")

    def took():
        before = time.monotonic()
        guest.command("wait 100")  # halted in between
        return time.monotonic() - before
    until(lambda: 0.4 < took() < 1.5)  # retry on a busy machine
    assert guest.values("ticks")["pit"] >= 100


def test_lapic_timer_ticks(guest):
    guest.command("timer 1000000")
    guest.command("wait 20")
    assert guest.values("ticks")["lapic"] >= 20
    guest.command("timer 0")
    stopped = guest.values("ticks")["lapic"]
    assert guest.values("ticks")["lapic"] <= stopped + 1


def test_kvm_clock_goes_with_the_host(guest):
    host, first = time.monotonic(), guest.values("clock")["ns"]
    time.sleep(0.5)
    second = guest.values("clock")["ns"]
    passed = time.monotonic() - host
    assert 0.45 < (second - first) / 1e9 < passed + 0.1


def test_unknown_msr_raises_fault_in_guest(guest):
    with pytest.raises(GuestError, match="exception 13"):
        guest.command("rdmsr 0x12345678")
    assert guest.command("echo alive") == ["alive"]


@pytest.mark.parametrize("vcpus", [2, 8])
def test_processors_start(vcpus):
    with interp(vcpus=vcpus) as g:
        assert g.values(f"smp start {vcpus - 1}")["online"] == (1 << vcpus) - 2
        g.command(f"smp count {vcpus - 1}")
        g.command("pit 100")
        g.command("wait 50")

        def counted():
            counters = [guestlib.fields(l)["counter"] for l in g.command("smp show")[1:]]
            return len(counters) == vcpus - 1 and all(c > 1000 for c in counters)
        until(counted)


def test_sixty_four_processors_start():
    with interp(vcpus=64, memory="64M") as g:
        assert g.values("smp start 63", 120)["online"] == (1 << 64) - 2


def test_topology_in_cpuid():
    if KIND == "pvm":
        pytest.skip("this KVM does not virtualise CPUID")
    with interp(vcpus=4, topology={"sockets": 2, "cores": 2, "threads": 1}) as g:
        leaf = g.values("cpuid 1")
        assert leaf["ebx"] >> 24 == 0 and leaf["ecx"] >> 31 == 1  # APIC id 0, a hypervisor
        kvm = g.values("cpuid 0x40000000")
        assert struct.pack("<III", kvm["ebx"], kvm["ecx"], kvm["edx"]) == b"KVMKVMKVM\0\0\0"


def test_system_calls(guest):
    """On a host whose KVM emulates kernel mode, the assist handles them."""
    assert guest.values("syscall 500")["count"] == 500


def test_registers_beyond_sse_are_saved_and_loaded(guest):
    """On a host whose KVM emulates kernel mode, the assist executes XSAVE and XRSTOR."""
    try:
        guest.command("xstate switch")
    except GuestError as e:
        if "no AVX" not in str(e):
            raise
        pytest.skip("the processor has no AVX")
    wrong = ("save-not-canonical", "load-not-canonical", "unaligned", "header", "part")
    for how, vector in [("save-nowhere", 14), ("load-nowhere", 14), *((how, 13) for how in wrong)]:
        with pytest.raises(GuestError, match=f"exception {vector}"):
            guest.command(f"xstate {how}")
    guest.command("xstate switch")


def test_interrupts_of_each_kind(guest):
    guest.command("open 0")
    guest.command("irq msix")
    guest.command("irq intx")
    guest.command("irq msix")


# ---- disks ----

def test_disk_keeps_written_data(image):
    d = [disk(image, serial="cairn-0001")]
    with interp(disks=d) as g:
        g.command("open 0")
        info = g.values("info")
        assert info["sectors"] == (16 << 20) // SECTOR
        assert info["serial"] == "cairn-0001"
        g.command("write 7 100 42")
        g.command("flush")
        g.send("poweroff\n")
        assert g.wait() == guestlib.EXIT_OK
    with interp(disks=d) as g:
        g.command("open 0")
        g.command("verify 7 100 42")
        with pytest.raises(GuestError, match="differs"):
            g.command("verify 7 100 43")
        with open(image, "rb") as f:
            f.seek(7 * SECTOR)
            dump = "".join(g.command("dump 7"))
            assert bytes.fromhex(dump) == f.read(SECTOR)


def test_disk_discard_and_zeroes(guest, image):
    guest.command("open 0")
    guest.command("write 0 256 9")
    guest.command("zero 16 16")
    guest.command("discard 64 64")
    guest.command("flush")
    guest.command("verify 0 16 9")
    guest.command("verify 32 32 9")
    with open(image, "rb") as f:
        f.seek(16 * SECTOR)
        assert f.read(16 * SECTOR) == bytes(16 * SECTOR)


def test_access_beyond_disk_end_is_an_error(guest):
    guest.command("open 0")
    last = (16 << 20) // SECTOR - 1
    guest.command(f"write {last} 1 5")
    for command in (f"write {last} 2 5", f"sum {last + 1} 1", "sum 0xffffffffffffffff 1", f"discard {last} 2",
                    f"zero {last + 1} 1"):
        with pytest.raises(GuestError, match="I/O error"):
            guest.command(command)
    guest.command(f"verify {last} 1 5")


def test_unknown_disk_request_is_unsupported(guest):
    guest.command("open 0")
    with pytest.raises(GuestError, match="unsupported"):
        guest.command("request 99 0 512")


def test_disk_read_only(image):
    with interp(disks=[disk(image, readonly=True)]) as g:
        g.command("open 0")
        g.command("sum 0 8")
        with pytest.raises(GuestError, match="I/O error"):
            g.command("write 0 8 1")
        g.command("sum 0 8")
    with open(image, "rb") as f:
        assert not any(f.read(4096))


def test_disk_qcow2_of_qemu_img(tmp_path):
    path = str(tmp_path / "disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    with interp(disks=[disk(path, format="qcow2")]) as g:
        g.command("open 0")
        g.command("write 1000 2000 3")
        g.command("flush")
        g.command("verify 1000 2000 3")
        g.send("poweroff\n")
        assert g.wait() == guestlib.EXIT_OK
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    with interp(disks=[disk(path, format="qcow2")]) as g:
        g.command("open 0")
        g.command("verify 1000 2000 3")


@pytest.mark.parametrize("size, queues, without, depth", [
    (0, 1, 0, 32), (256, 2, 0, 64), (16, 1, 1 << 28, 5), (64, 2, 3 << 28, 32), (2, 1, 0, 1)])
def test_disk_ring_shapes(image, size, queues, without, depth):
    """Queue sizes and counts, with and without indirect descriptors and event indices."""
    with interp(disks=[disk(image, queues=2)]) as g:
        g.command(f"open 0 {size} {queues} {without:#x}")
        work = g.values(f"bench randwrite {depth} 3000 4096 16384 1")
        assert work["requests"] == 3000 and work["errors"] == 0
        g.command("write 0 64 8")
        g.command(f"bench randread {depth} 3000 4096 16384 1")
        g.command("verify 0 64 8")


def test_several_disks(tmp_path):
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.img"))
        with open(paths[-1], "wb") as f:
            f.truncate((i + 1) << 20)
    disks = [disk(p, id=f"vd{'abcd'[i]}") for i, p in enumerate(paths)]
    with interp(disks=disks) as g:
        for i in range(4):
            g.command(f"open {i}")
            assert g.values("info")["sectors"] == 2048 * (i + 1)
            g.command(f"write 0 8 {i}")
        for i in range(4):
            g.command(f"open {i}")
            g.command(f"verify 0 8 {i}")


# ---- errors of a guest ----

def ring_modes():
    with open(os.path.join(guestlib.ROOT, "tests", "guests", "bare", "ring.c")) as f:
        return re.findall(r'^\t{ ?"([a-z-]+)", mode_', f.read(), re.M)


@pytest.mark.parametrize("mode", ring_modes())
def test_malformed_ring_needs_reset(guest, mode):
    """The device asks for a reset, and works after one (the guest's command checks this)."""
    result = guest.values(f"ring {mode}")
    assert result["status"] & NEEDS_RESET or result["may_ignore"]
    guest.command("open 0")
    guest.command("irq msix")
    if not result["may_ignore"]:
        until(lambda: "vda: the guest's driver is at fault" in guest.log())


def test_unclaimed_ports_read_all_ones(guest):
    step = 37 if "CAIRN_IN_SVMHOST" in os.environ else 3  # an exit costs 0.3 ms there
    assert guest.values(f"ports 0 0xffff {step}")["unclaimed"] > 60000 // step
    assert guest.command("echo alive") == ["alive"]


@pytest.mark.parametrize("first", ["0xc8000000", "0xe0100000", "0xfec01000", "0xfed00000", "0x100000000",
                                   "0x7fffff0000"])
def test_unclaimed_addresses_read_all_ones(guest, first):
    guest.command(f"addresses {first} {int(first, 16) + 0x8000:#x} 0x800")
    assert guest.command("echo alive") == ["alive"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_device_registers_survive_random_access(guest, seed):
    """Random reads and writes of the disk's registers, its MSI-X table and PCI's."""
    functions = [guestlib.fields(l) for l in guest.command("pci")]
    for f in functions:
        for bar in range(6):
            base = guest.number(f"cfgrd {f['bdf']:#x} {0x10 + 4 * bar:#x}")
            if base & 0xfffffff0 and not base & 1 and base < 0xf0000000:
                guest.command(f"fuzz {base & 0xfffffff0:#x} 0x4000 1500 {seed}")
    guest.command("open 0")
    guest.command("sum 0 8")
    guest.command("irq msix")


@pytest.mark.parametrize("seed", [1, 2])
def test_pci_configuration_survives_random_writes(guest, seed):
    """Through ECAM: BARs move, decoding is switched off and on. The VM must survive; the disk may be lost."""
    guest.command(f"fuzz 0xe0008000 0x1000 1500 {seed}")
    guest.command(f"fuzz 0xe0000000 0x100000 1500 {seed}")
    assert guest.command("echo alive") == ["alive"]


def test_triple_fault_is_a_crash():
    with interp(on_reboot="destroy") as g:
        g.send("crash triple\n")
        assert g.wait() == guestlib.EXIT_CRASHED
        assert "triple fault" in g.log()


def test_unemulatable_instruction_is_a_crash():
    with interp() as g:
        g.send("crash emulation\n")
        assert g.wait() == guestlib.EXIT_CRASHED
        log = g.log()
        assert "emulation failure" in log
        assert re.search(r"\bd9 ?07\b", log), log  # flds (%rdi): its bytes are in the report


def test_panic_is_reported():
    with interp() as g:
        g.send("crash panic\n")
        assert g.wait() == guestlib.EXIT_PANICKED
        assert "guest panicked" in g.log()


@pytest.mark.parametrize("how", ["dead", "spin"])
def test_deadline_ends_guest_that_ignores_button(how):
    """The guest ignores the button; the deadline ends it."""
    with interp(shutdown_deadline=2) as g:
        g.send(f"crash {how}\n")
        time.sleep(0.3)
        begin = time.monotonic()
        g.terminate()
        assert g.wait() == guestlib.EXIT_TIMEOUT
        assert 1.5 < time.monotonic() - begin


def test_second_sigterm_stops_at_once():
    with Guest(definition(shutdown_deadline=60), args=("--log-level", "info")) as g:
        g.expect("interp\n")
        g.terminate()
        until(lambda: "pressing the power button" in g.log())
        time.sleep(0.3)  # an immediate second signal counts as the same request
        assert g.process.poll() is None
        g.terminate()
        assert g.wait() == guestlib.EXIT_KILLED


# ---- ends and restarts ----

def test_power_off_ends_with_status_0():
    with interp() as g:
        g.send("poweroff\n")
        assert g.wait() == guestlib.EXIT_OK


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_debug_exit_is_the_status(status):
    with interp() as g:
        g.send(f"exit {status}\n")
        assert g.wait() == status


def test_debug_exit_is_off_by_default():
    with interp(debug_exit=False) as g:
        with pytest.raises(GuestError, match="still here"):
            g.command("exit 3")


def test_power_button_reaches_the_guest():
    with interp() as g:
        g.command("button init")
        g.send("button wait\n")
        time.sleep(0.2)
        g.terminate()
        assert g.answer() == ["pressed"]
        g.send("poweroff\n")
        assert g.wait() == guestlib.EXIT_OK


@pytest.mark.parametrize("way", ["cf9", "keyboard", "port92"])
def test_reset_restarts_guest(image, way):
    with interp(disks=[disk(image)], vcpus=2) as g:
        for _ in range(3):
            g.command("open 0")
            g.command("write 3 1 3")
            g.command("smp count 1")
            g.send(f"reset {way}\n")
            g.expect("interp\n")
        g.command("open 0")
        g.command("verify 3 1 3")
        assert g.values("smp start 1")["online"] == 2
        g.send("exit 9\n")
        assert g.wait() == 9


def test_reset_ends_when_the_definition_says_so():
    with interp(on_reboot="destroy") as g:
        g.send("reset cf9\n")
        assert g.wait() == guestlib.EXIT_OK
        assert "warning guest: ended (guest reset)\n" in g.log()  # the status is that of a shutdown


def test_reset_of_guest_is_logged():
    with guestlib.Guest(guestlib.definition(), args=["--log-level", "info"]) as g:
        g.expect("interp\n")
        g.send("reset cf9\n")
        g.expect("interp\n")
        assert "info guest: reset by the guest or its watchdog\n" in g.log()


# ---- invalid kernels ----

def refused(tmp_path, content, **more):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(content)
    status, log = run_to_end(boot={"kernel": str(kernel)}, **more)
    assert status == guestlib.EXIT_CONFIG
    assert "kernel" in log
    assert len([l for l in log.splitlines() if l]) <= 2, log
    return log


def idle_elf():
    with open(guestlib.bare("idle"), "rb") as f:
        return bytearray(f.read())


@pytest.mark.parametrize("length", [0, 3, 40, 63, 100, 5000])
def test_truncated_kernel_is_refused(tmp_path, length):
    refused(tmp_path, idle_elf()[:length])


def test_kernel_of_another_architecture_is_refused(tmp_path):
    elf = idle_elf()
    elf[18:20] = struct.pack("<H", 183)  # e_machine: AArch64
    refused(tmp_path, elf)


def test_kernel_of_random_bytes_is_refused(tmp_path):
    refused(tmp_path, os.urandom(100000))


def test_kernel_larger_than_memory_is_refused(tmp_path):
    elf = idle_elf()
    phoff = struct.unpack_from("<Q", elf, 32)[0]
    struct.pack_into("<Q", elf, phoff + 40, 1 << 30)  # p_memsz of the first segment
    refused(tmp_path, elf)


@pytest.mark.parametrize("offset, value", [(40, (1 << 64) - 1), (32, (1 << 64) - 1), (24, (1 << 64) - 4096),
                                           (24, 0xfee00000), (8, 1 << 62)])
def test_kernel_with_overflowing_segments_is_refused(tmp_path, offset, value):
    """p_memsz, p_filesz, p_paddr, p_offset of the first segment."""
    elf = idle_elf()
    phoff = struct.unpack_from("<Q", elf, 32)[0]
    struct.pack_into("<Q", elf, phoff + offset, value)
    refused(tmp_path, elf)


def test_initrd_that_does_not_fit_is_refused(tmp_path):
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as f:
        f.truncate(64 << 20)
    status, log = run_to_end(boot={"kernel": guestlib.bare("idle"), "initrd": str(initrd)}, memory="32M")
    assert status == guestlib.EXIT_CONFIG
    assert "initrd" in log


# ---- many ----

def test_twenty_vms_at_once():
    """All VMs start and answer, one crashes, and the others stop cleanly."""
    guests = []
    try:
        for i in range(20):
            guests.append(Guest(definition(name=f"vm{i}", guest="idle", memory="16M")))
        for g in guests:
            g.expect("idle\n")
        guests[7].process.kill()
        assert guests[7].wait() == -signal.SIGKILL
        del guests[7]
        for g in guests:
            g.send("x")
            g.expect("x")
        for g in guests:
            g.terminate()
        assert [g.wait() for g in guests] == [guestlib.EXIT_OK] * 19
    finally:
        for g in guests:
            g.close()


@pytest.mark.skipif(guestlib.SANITIZED, reason="a sanitizer's runtime has a thread of its own, which wakes")
def test_idle_guest_uses_no_cpu():
    with Guest(definition(guest="idle", memory="16M")) as g:
        g.expect("idle\n")

        def rests():
            before = resource_use(g.vm_pid())
            time.sleep(2)
            after = resource_use(g.vm_pid())
            # Return CPU seconds, and how often a thread slept and woke.
            return after[0] - before[0] < 0.02 and after[1] - before[1] < 10
        until(rests)  # some time after its start


def resource_use(pid):
    seconds, switches = 0.0, 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the kernel's own helper threads come and go
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                seconds += int(f.read().split()[0]) / 1e9
            with open(f"/proc/{pid}/task/{task}/status") as f:
                switches += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M).group(1))
    return seconds, switches


# ---- interrupt lines, as kvm-unit-tests' ioapic tests them ----

@pytest.mark.parametrize("cpu", [0, 1])
def test_interrupt_lines(cpu):
    """The guest sets a line of the IOAPIC itself, by the test device; the interrupts come to one of two processors."""
    with interp(vcpus=2) as g:
        g.values("smp start 1")
        g.command("smp count 1")
        levels = (("level", 1), ("coalesced", 1), ("sequential", 2), ("retriggered", 2))
        # A KVM that emulates kernel mode delivers each level-triggered interrupt once more.
        for case, count in (("edge", 1), *(levels if KIND != "pvm" else ())):
            assert g.values(f"line {case} {cpu}") == {"count": count}, case


def test_test_device_keeps_what_is_written(guest):
    guest.command("wr64 0xff000008 0x1122334455667788")
    assert guest.number("rd32 0xff00000c") == 0x11223344
    guest.command("wr8 0xff00ffff 0x5a")
    assert guest.number("rd8 0xff00ffff") == 0x5a
    guest.command("outl 0xe0 0x12345678")
    assert guest.number("inb 0xe2") == 0x34
