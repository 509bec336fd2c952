"""statelib: saved states (docs/vmstate.md), for tests that read or change one. This module does not need pytest."""

import struct

HEADER, SECTIONS_AT = 4096, 4096
EAX, EBX, ECX, EDX = range(4)
VIRTUAL, PROCESSOR = 1, 2


def _crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
        table.append(i)
    return table


TABLE = _crc_table()


def crc32c(data):
    crc = 0xffffffff
    for b in data:
        crc = crc >> 8 ^ TABLE[(crc ^ b) & 255]
    return crc ^ 0xffffffff


class Cpu:
    """The content of section `cpu`. guest and own are lists of [function, index, flags, eax, ebx, ecx, edx]."""

    def __init__(self, content):
        self.kind, self.sockets, self.cores, self.threads, self.tsc_khz, self.xcr0 = struct.unpack_from("<5IQ", content)
        self.guest, at = self._leaves(content, 28)
        self.own, at = self._leaves(content, at)
        assert at == len(content)

    @staticmethod
    def _leaves(content, at):
        n, = struct.unpack_from("<I", content, at)
        return [list(struct.unpack_from("<7I", content, at + 4 + 28 * i)) for i in range(n)], at + 4 + 28 * n

    @property
    def user(self):
        """The leaves that user mode of the guest sees."""
        return self.own if self.kind == PROCESSOR else self.guest

    @staticmethod
    def leaf(leaves, function, index=0):
        return next(x for x in leaves if x[0] == function and (x[1] == index or not x[2] & 1))

    def pack(self):
        head = struct.pack("<5IQ", self.kind, self.sockets, self.cores, self.threads, self.tsc_khz, self.xcr0)
        return head + b"".join(struct.pack("<I", len(x)) + b"".join(struct.pack("<7I", *y) for y in x)
                               for x in (self.guest, self.own))


class State:
    """A saved state as bytes, split into its sections: [name, instance, version, content]."""

    def __init__(self, data):
        self.data, self.sections = bytearray(data), []
        at, end = SECTIONS_AT, SECTIONS_AT + struct.unpack_from("<Q", data, 24)[0]
        while at < end:
            version, names, instances, _, size = struct.unpack_from("<HHHHI", data, at + 4)
            at += 20
            name, instance = data[at:at + names].decode(), data[at + names:at + names + instances].decode()
            at += names + instances
            self.sections.append([name, instance, version, data[at:at + size]])
            at = (at + size + 7) // 8 * 8

    def section(self, name):
        return next(s for s in self.sections if s[0] == name)

    @property
    def cpu(self):
        return Cpu(self.section("cpu")[3])

    @cpu.setter
    def cpu(self, cpu):
        self.section("cpu")[3] = cpu.pack()

    def pack(self):
        """Return the state with its present sections, and with valid checksums."""
        out = b""
        for name, instance, version, content in self.sections:
            head = struct.pack("<IHHHHI", 0x43454353, version, len(name), len(instance), 0, len(content))
            rest = name.encode() + instance.encode() + content
            section = head + struct.pack("<I", crc32c(head + rest)) + rest
            out += section + bytes(-len(section) % 8)
        data = bytearray(self.data)
        old, = struct.unpack_from("<Q", data, 24)
        data[SECTIONS_AT:SECTIONS_AT + max(old, len(out))] = out.ljust(max(old, len(out)), b"\0")
        struct.pack_into("<Q", data, 24, len(out))
        struct.pack_into("<I", data, HEADER - 4, crc32c(data[:HEADER - 4]))
        return bytes(data)


def edit_cpu(path, change):
    """Let change(cpu) change the section `cpu` of the state in the file."""
    state = State(path.read_bytes())
    cpu = state.cpu
    change(cpu)
    state.cpu = cpu
    path.write_bytes(state.pack())
