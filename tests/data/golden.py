#!/usr/bin/python3
"""Golden VM states: files of each format version, which every later version has to read. Stored as text: lines with
an offset and 16 bytes, both in hex, without those of zeros; at the end `size` and the file's length.

golden.py pack STATE >vmstate-VERSION-KIND.hex
golden.py unpack FILE.hex STATE
CAIRN_BUILD=build golden.py make >vmstate-VERSION-KIND.hex     of a fresh guest
CAIRN_BUILD=build golden.py make devices >vmstate-VERSION-KIND-devices.hex     of a guest with every device
CAIRN_BUILD=build golden.py make plug >vmstate-VERSION-KIND-plug.hex     of a guest with hot-plug of vCPUs, a screen and a tablet
CAIRN_BUILD=build golden.py make pae >vmstate-VERSION-KIND-pae.hex     of a guest whose vCPU has page directory pointers
CAIRN_BUILD=build golden.py make devices bios >…     the same, started by a BIOS of ours; uefi: by a UEFI of ours

KIND is the kind of host (tests/hostkind.sh), which determines a vCPU's registers. A new format version or device
adds files; existing files never change. VERSION 2bios is format version 2 with machine version 2, made by commit
93798be9. VERSIONs from 3 on are format version 2 with these
machine versions: with hot-plug; 4 with a BIOS; 5 with UEFI; 6 with SMBIOS tables; 7, 8 (BIOS) and 9 (UEFI) with slots
for the devices of the start. Since version 2, states have no frequency of the TSC. Those of kind svm are of the
processor `baseline`, so that each host that virtualises CPUID can load them; make them in the emulated SVM host. Those of
kind pvm are of `host`, which is the only one there, and are then left with the features that each x86-64 processor has, so
that each host of this kind can load them."""

import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
UUID = "6f6c6465-6e20-4f73-a174-652076312e30"


def pack(data):
    lines = [f"{at:x} {data[at:at + 16].hex()}" for at in range(0, len(data), 16) if any(data[at:at + 16])]
    return "\n".join([*lines, f"size {len(data):x}", ""])


def unpack(text, path):
    with open(path, "wb") as f:
        for line in text.splitlines():
            at, content = line.split()
            if at == "size":
                f.truncate(int(content, 16))
            else:
                f.seek(int(at, 16))
                f.write(bytes.fromhex(content))


def devices(folder):
    """Return the keys of a VM with one of each device; its disk is created in the folder."""
    disk = pathlib.Path(folder) / "golden.img"
    disk.write_bytes((bytes(510) + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return {"disks": [{"path": str(disk), "format": "raw"}], "console": {"virtio": True}, "guest_agent": True,
            "rng": True, "watchdog": {"model": "i6300esb", "action": "none"}}


# The keys of devices that came later. One of the two vCPUs is absent.
PLUG = {"vcpus": 1, "max_vcpus": 2, "screen": True, "tablet": True}


# In real mode, from the reset vector on: write "A" to the serial port, and halt.
RESET_CODE = bytes.fromhex("baf803b041eef4ebfd")


def kernel_name(pae):
    return "pae_byte.elf" if pae else "first_byte.elf"


def boot(folder, firmware, kernel):
    """Return the keys "boot" and "memory" of a VM that runs RESET_CODE as its firmware, or the kernel."""
    if not firmware:
        return {"boot": {"kernel": str(kernel)}, "memory": "2M"}
    rom, template = pathlib.Path(folder) / "golden.rom", pathlib.Path(folder) / "golden.vars"
    rom.write_bytes(bytes((128 << 10) - 16) + RESET_CODE.ljust(16, b"\0"))
    template.write_bytes(bytes(16 << 10))
    return {"boot": {"firmware": firmware, "loader": str(rom), **({"nvram_template": str(template)} if firmware == "uefi" else {})},
            "memory": "16M"}


# Masks of EAX, EBX, ECX and EDX of the leaves that stay: fpu to sse2 (without vme), lahf_lm, syscall, nx, lm
EVERY_PROCESSOR = {1: (~0, 0xffff, 0, 0x078bfbfd), 0x80000000: (~0, 0, 0, 0), 0x80000001: (~0, 0, 1, 0x20100800)}


ARCH_CAPABILITIES = 0x10a  # the MSR is 0 without the feature


def edit(path):
    """Make the processor of the state one that each host of the kind can load."""
    import statelib
    state = statelib.State(path.read_bytes())
    cpu = state.cpu
    cpu.tsc_khz = 0
    if cpu.kind == statelib.PROCESSOR:
        cpu.xcr0 = 0
        for leaves in (cpu.guest, cpu.own):
            # No leaf 0: the state loads on hosts of each vendor.
            leaves[:] = [[*x[:3], *(r & m for r, m in zip(x[3:], EVERY_PROCESSOR[x[0]]))]
                         for x in leaves if x[0] in EVERY_PROCESSOR]
        for vcpu in (s for s in state.sections if s[0] == "vcpu"):
            at = vcpu[3].index(ARCH_CAPABILITIES.to_bytes(4, "little"), len(vcpu[3]) // 2) + 4
            vcpu[3] = vcpu[3][:at] + bytes(8) + vcpu[3][at + 8:]
    state.cpu = cpu
    path.write_bytes(state.pack())


def make(with_devices, plug, pae, firmware):
    """Return the state of a guest that has halted, with almost empty memory."""
    sys.path.insert(0, str(HERE.parent / "e2e"))
    import conftest
    import guestlib
    with tempfile.TemporaryDirectory() as tmp:
        daemon = conftest.Daemon(pathlib.Path(tmp))
        try:
            # Use a neutral path, because the state stores it.
            kernel = pathlib.Path("/tmp") / kernel_name(pae)
            kernel.write_bytes((pathlib.Path(conftest.GUESTS) / kernel.name).read_bytes())
            daemon.define("golden", uuid=UUID, **boot("/tmp", firmware, kernel),
                          cpu="baseline" if guestlib.virtualises_cpuid() else "host",
                          **(devices("/tmp") if with_devices else {}), **(PLUG if plug else {}))
            daemon.cairn("start", "golden")
            conftest.Console(daemon, "golden").close()
            subprocess.run(["sleep", "0.5"], check=True)
            daemon.cairn("save", "golden", f"{tmp}/saved")
            edit(pathlib.Path(tmp, "saved"))
            kernel.unlink()
            for name in ("img", "rom", "vars"):
                pathlib.Path("/tmp/golden." + name).unlink(missing_ok=True)
        finally:
            daemon.close()
        return pathlib.Path(tmp, "saved").read_bytes()


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        print(pack(pathlib.Path(sys.argv[2]).read_bytes()), end="")
    elif sys.argv[1:2] == ["unpack"]:
        unpack(pathlib.Path(sys.argv[2]).read_text(), sys.argv[3])
    elif sys.argv[1:2] == ["make"]:
        print(pack(make("devices" in sys.argv[2:], "plug" in sys.argv[2:], "pae" in sys.argv[2:], next((a for a in sys.argv[2:] if a in ("bios", "uefi")), None))), end="")
    else:
        sys.exit(__doc__)
