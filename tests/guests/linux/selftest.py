#!/usr/bin/env python3
"""Check the guest itself under plain emulation (QEMU's TCG), without Cairn.

selftest.py KERNELDIR INITRD: boot it with a disk, a command port, RNG, pvpanic and VMGenID, run commands and
compare their answers, then press the power button. Takes a few seconds."""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time

LIMIT_S = 60

# A command, and a pattern for its answer (lines joined by "; ", the last is ok or error).
CHECKS = [
    ("echo a  b", r"^a  b; ok$"),
    ("block", r"^vda sectors 131072 ro 0 serial disk1 .*; ok$"),
    ("mount /dev/vda /mnt ext4", r"^ok$"),
    ("write /mnt/a hello  world", r"^ok$"),
    ("append /mnt/a again", r"^ok$"),
    ("read /mnt/a", r"^hello  world; again; ok$"),
    ("mkdir /mnt/d", r"^ok$"),
    ("write /mnt/d/f 1", r"^ok$"),
    ("stat /mnt/a", r"type -; mode 644; size 19;.*; ok$"),
    ("sum /mnt/a", r"^fnv1a64 [0-9a-f]{16} 19; ok$"),
    ("fill /mnt/big 5 1000003 42", r"^filled 1000003; ok$"),
    ("verify /mnt/big 5 1000003 42", r"^verified 1000003; ok$"),
    ("verify /mnt/big 5 1000003 43", r"error: differs at 5: "),
    ("verify /mnt/big 5 1000004 42", r"error: ends at 1000008$"),
    ("rm -r /mnt", r"^deleted 5; ok$"),
    ("ls /mnt", r"^ok$"),
    ("umount /mnt", r"^ok$"),
    ("fill /dev/vda 1M 8M 7 direct", r"^filled 8388608; ok$"),
    ("verify /dev/vda 1M 8M 7", r"^verified 8388608; ok$"),
    ("zeroout /dev/vda 2M 1M", r"^ok$"),
    ("verify /dev/vda 1M 8M 7", r"error: differs at 2097152: 00$"),
    ("discard /dev/vda 1M 1M", r"^ok$"),
    ("bench /dev/vda read 4K 8 1 random", r"^requests [1-9].*latency_max_us \d+; ok$"),
    ("fill-ram 16 3", r"^filled 16777216; ok$"),
    ("verify-ram", r"^verified 16777216; ok$"),
    ("verify-ram 4", r"^error: differs at 0: "),
    ("dirty-ram 20 10", r"^ok$"),
    ("ticks 200", r"^monotonic_ns 2\d{8}; .*; ok$"),
    ("dirty-ram stop", r"^running 0; dirtied [1-9]\d* pages; ok$"),
    ("clock", r"^realtime \d+\.\d{9}; monotonic .*; boottime .*; ok$"),
    ("cpus", r"^\d+; online 0.*; ok$"),
    ("run-cpus 50", r"^cpu0 rounds [1-9]"),
    ("random 16", r"^hwrng [0-9a-f]{32}; kernel [0-9a-f]{32}; ok$"),
    ("rtc", r"^rtc \d{10}; ok$"),
    ("pci", r"driver virtio-pci; .*ok$"),
    ("acpi", r"PNP0A03"),
    ("kmsg to the log", r"^ok$"),
    ("dmesg 5", r"to the log"),
    ("cpuid 0", r"^eax [0-9a-f]{8} ebx"),
    ("nonsense", r"^error: no command 'nonsense'"),
    ("mount", r"^error: usage: mount"),
    ("verify /nope 0 1 1", r"^error: No such file"),
    ("fill /dev/vda x 1 1", r"^error: 'x' is not a number"),
    ("fill /dev/vda 0 1 1 x", r"^error: 'direct' or nothing, not 'x'$"),
    ("button ignore", r"^mode ignore; presses 0; ok$"),
]


class Guest:
    def __init__(self, kernel_dir, initrd, folder):
        self.folder = folder
        disk = f"{folder}/disk"
        with open(disk, "wb") as f:
            f.truncate(64 << 20)
        subprocess.run(["/sbin/mkfs.ext4", "-q", disk], check=True)
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-m", "128", "-nodefaults", "-display", "none",
             "-no-reboot", "-kernel", f"{kernel_dir}/vmlinux", "-initrd", initrd,
             "-append", "console=ttyS0 quiet panic=-1", "-serial", f"file:{folder}/console",
             "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
             "-drive", f"if=none,id=d,file={disk},format=raw,discard=unmap", "-device", "virtio-blk-pci,drive=d,serial=disk1",
             "-device", "virtio-serial-pci", "-chardev", f"socket,id=c,path={folder}/port,server=on,wait=off",
             "-device", "virtserialport,chardev=c,name=org.cairn.test",
             "-device", "virtio-rng-pci", "-device", "pvpanic-pci", "-device", "vmgenid"])

    def console(self):
        try:
            with open(f"{self.folder}/console", encoding="latin1") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def await_console(self, text):
        end = time.monotonic() + LIMIT_S
        while text not in self.console():
            if time.monotonic() > end or self.qemu.poll() is not None:
                sys.exit(f"no '{text}' on the console:\n{self.console()}")
            time.sleep(0.02)

    def open_port(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT_S)
        sock.connect(f"{self.folder}/port")
        self.port = sock.makefile("rw")

    def ask(self, command):
        self.port.write(command + "\n")
        self.port.flush()
        lines = []
        while True:
            lines.append(self.port.readline().rstrip("\n"))
            if lines[-1] == "ok" or lines[-1].startswith("error:"):
                return "; ".join(lines)

    def press_power_button(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.folder}/qmp")
            qmp = sock.makefile("rw")
            qmp.readline()
            for name in ("qmp_capabilities", "system_powerdown"):
                qmp.write(json.dumps({"execute": name}))
                qmp.flush()
                qmp.readline()


def main():
    kernel_dir, initrd = sys.argv[1:3]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        guest = Guest(kernel_dir, initrd, folder)
        try:
            guest.await_console("cairn-guest: ready")
            print(f"ok ready after {time.monotonic() - start:.2f} s")
            guest.open_port()
            for command, pattern in CHECKS:
                answer = guest.ask(command)
                good = re.search(pattern, answer)
                failed += not good
                print(f"ok {command}" if good else f"not ok {command}: wanted {pattern}, got {answer}")
            guest.press_power_button()
            guest.await_console("cairn-guest: power button")
            good = guest.ask("button poweroff") == "mode poweroff; presses 1; ok"
            failed += not good
            print("ok an ignored button press" if good else "not ok an ignored button press")
            guest.press_power_button()
            guest.await_console("cairn-guest: powering off")
            guest.qemu.wait(LIMIT_S)
            print("ok power button")
        finally:
            if guest.qemu.poll() is None:
                guest.qemu.kill()
            guest.qemu.wait()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
