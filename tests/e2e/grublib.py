"""Disks that a PC's firmware boots: GRUB in the first sectors, and one partition with GRUB's modules, a Linux kernel
and an initrd. Needs Debian's grub-pc-bin and grub-common, and no root: mke2fs fills the partition."""

import os
import pathlib
import shutil
import struct
import subprocess

MODULES = "/usr/lib/grub/i386-pc"
SECTOR = 512
PARTITION = 2048  # sectors: the first one's usual start, behind GRUB's core image
EMBEDDED = "biosdisk part_msdos ext2 serial terminal normal linux echo smbios configfile boot"

# GRUB's output goes to the console that the BIOS writes to, which is the serial port.
HEAD = "set timeout={timeout}\nset default=0\nserial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"


def missing():
    """Return why no disk can be made here, or None."""
    if not os.path.exists(f"{MODULES}/boot.img"):
        return "no package grub-pc-bin"
    return None if shutil.which("grub-mkimage") and shutil.which("mke2fs") else "no grub-mkimage or no mke2fs"


def write_partition(path, size, files):
    """Make an ext2 file system of `size` bytes with `files`: names in it, and the content (bytes) or a file to copy."""
    root = pathlib.Path(f"{path}.root")
    for name, content in files.items():
        to = root / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            to.write_bytes(content)
        else:
            shutil.copy(content, to)
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", root, path, f"{size // 1024}k"], check=True)
    shutil.rmtree(root)


def write_disk(path, entries, files, *, size=32 << 20, timeout=1):
    """Write a raw disk. entries: title and commands of each entry of the menu; the first one is the default."""
    menu = HEAD.format(timeout=timeout)
    for title, commands in entries.items():
        menu += f"menuentry '{title}' {{\n" + "".join(f"  {c}\n" for c in commands) + "}\n"
    part, core = f"{path}.part", f"{path}.core"
    write_partition(part, size - PARTITION * SECTOR, {"boot/grub/grub.cfg": menu.encode(), **files})
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core, *EMBEDDED.split()], check=True)
    boot, core_bytes = pathlib.Path(f"{MODULES}/boot.img").read_bytes(), pathlib.Path(core).read_bytes()
    assert len(core_bytes) <= (PARTITION - 1) * SECTOR
    # The partition table: active, type 0x83. boot.img reads the core image from sector 1 on.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION, size // SECTOR - PARTITION)
    with open(path, "wb") as f:
        f.write(boot[:446] + entry + bytes(48) + b"\x55\xaa" + core_bytes)
        f.seek(PARTITION * SECTOR)
        with open(part, "rb") as p:
            shutil.copyfileobj(p, f)
        f.truncate(size)
    os.unlink(part)
    os.unlink(core)
    return str(path)
