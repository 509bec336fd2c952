"""efidisk: a disk with a GPT whose one partition is an EFI system partition: a FAT16 with \\EFI\\BOOT\\BOOTX64.EFI.

Tables: UEFI 2.10, sections 5.2.3 and 5.3; Microsoft's FAT specification, version 1.03."""

import struct
import uuid
import zlib

SECTOR = 512
FIRST, SECTORS = 2048, 65536  # of the partition
ALL = FIRST + SECTORS + 2048
ENTRIES = 128
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
CLUSTER = 4 * SECTOR
FAT_SECTORS = 64
ROOT_ENTRIES = 512


def _header(own, other, entries_at, disk, crc):
    def pack(own_crc):
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, own_crc, 0, own, other, 34, ALL - 34, disk.bytes_le,
                           entries_at, ENTRIES, 128, crc)
    return pack(zlib.crc32(pack(0)))


def _gpt(f):
    disk = uuid.UUID(int=0x17)
    name = "EFI system partition".encode("utf-16-le")
    entry = ESP.bytes_le + uuid.UUID(int=0x18).bytes_le + struct.pack("<QQQ72s", FIRST, FIRST + SECTORS - 1, 0, name)
    entries = entry.ljust(ENTRIES * 128, b"\0")
    crc = zlib.crc32(entries)
    mbr = struct.pack("<446xB3sB3sII48xH", 0, b"\0\2\0", 0xee, b"\xff" * 3, 1, ALL - 1, 0xaa55)
    for at, data in ((0, mbr), (1, _header(1, ALL - 1, 2, disk, crc)), (2, entries),
                     (ALL - 33, entries), (ALL - 1, _header(ALL - 1, 1, ALL - 33, disk, crc))):
        f.seek(at * SECTOR)
        f.write(data)


def _entry(name, directory, cluster, size=0):
    return struct.pack("<11sB8xHHHHI", name, 0x10 if directory else 0x20, 0, 0, 0x21, cluster, size)


def _fat(f, application):
    boot = struct.pack("<3s8sHBHBHHBHHHIIBBBI11s8s", b"\xeb\x3c\x90", b"CAIRN   ", SECTOR, CLUSTER // SECTOR, 1, 2, ROOT_ENTRIES, 0,
                       0xf8, FAT_SECTORS, 32, 2, FIRST, SECTORS, 0x80, 0, 0x29, 17, b"CAIRN      ", b"FAT16   ")
    count = -(-len(application) // CLUSTER)
    chain = [0xfff8, 0xffff, 0xffff, 0xffff, *range(5, 4 + count), 0xffff]
    fat = struct.pack(f"<{len(chain)}H", *chain)
    root = 1 + 2 * FAT_SECTORS
    data = root + ROOT_ENTRIES * 32 // SECTOR
    for at, content in (
            (0, boot.ljust(510, b"\0") + b"\x55\xaa"), (1, fat), (1 + FAT_SECTORS, fat), (root, _entry(b"EFI        ", True, 2)),
            (data, _entry(b".          ", True, 2) + _entry(b"..         ", True, 0) + _entry(b"BOOT       ", True, 3)),
            (data + 4, _entry(b".          ", True, 3) + _entry(b"..         ", True, 2)
             + _entry(b"BOOTX64 EFI", False, 4, len(application))),
            (data + 8, application)):
        f.seek((FIRST + at) * SECTOR)
        f.write(content)


def make(path, application):
    """Write a raw disk whose boot loader is the EFI application in the file `application`."""
    with open(application, "rb") as f:
        content = f.read()
    with open(path, "wb") as f:
        f.truncate(ALL * SECTOR)
        _gpt(f)
        _fat(f, content)
