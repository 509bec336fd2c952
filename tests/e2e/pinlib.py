"""Pins and overlays on them, written byte by byte as docs/qcow2.md describes them."""
import struct

from statelib import crc32c

CLUSTER = 65536
OFFSET = 0x00FFFFFFFFFFFE00


def read_at(path, offset, count):
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(count)


def write_at(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def mark(path, pin):
    """Mark the image's last snapshot as a pin. Returns the overlay's header extension."""
    count, table = struct.unpack(">IQ", read_at(path, 60, 12))
    at = table
    for _ in range(count - 1):
        at += (40 + sum(entry_lengths(path, at)) + 7) // 8 * 8
    id_len, name_len, extra_len = entry_lengths(path, at)
    assert extra_len >= 24, "the snapshot has QEMU's extra data"
    entry = read_at(path, at, 40 + extra_len + id_len + name_len)
    data = b"CRP1" + pin
    data = entry[40:64] + data + struct.pack(">I", crc32c(data))
    write_at(path, at, entry[:36] + struct.pack(">I", len(data)) + data + entry[40 + extra_len:])
    l1_offset, l1_size = struct.unpack(">QI", entry[:12])
    disk = struct.unpack(">Q", entry[48:56])[0]
    l1 = struct.unpack(f">{l1_size}Q", read_at(path, l1_offset, 8 * l1_size))
    crc = crc32c(struct.pack(f">{l1_size}Q", *(e & OFFSET for e in l1)))
    bits = struct.unpack(">I", read_at(path, 20, 4))[0]
    ext = struct.pack(">II16sQQIII", 1, bits, pin, disk, l1_offset, l1_size, crc, 0)
    return ext + struct.pack(">I", crc32c(ext))


def entry_lengths(path, at):
    """Lengths of the id, the name and the extra data of the snapshot entry at `at`."""
    head = read_at(path, at, 40)
    return (*struct.unpack(">HH", head[12:16]), struct.unpack(">I", head[36:40])[0])


def stand_on(path, source, ext):
    """Let a new image without a backing file stand on the pin that ext describes."""
    name = b"cairn-fork:" + source.encode() + b"?snapshot=" + ext[8:24].hex().encode()
    exts = struct.pack(">II8s", 0xE2792ACA, 5, b"qcow2") + struct.pack(">II", 0x43524E50, len(ext)) + ext + bytes(8)
    length = struct.unpack(">I", read_at(path, 100, 4))[0]
    write_at(path, length, exts + name)
    write_at(path, 8, struct.pack(">QI", length + len(exts), len(name)))


def header_write(path, source, pin):
    """Write as much of an overlay on a pin as the daemon's helper reads. pin: hexadecimal digits."""
    name = f"cairn-fork:{source}?snapshot={pin}".encode()
    path.write_bytes(b"QFI\xfb" + struct.pack(">IQI", 3, 512, len(name)) + bytes(492) + name + bytes(512))
