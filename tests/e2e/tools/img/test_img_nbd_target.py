"""cairn-img writes to disks of NBD servers, compared with qemu-img; servers that fail, stall and vanish meanwhile."""
import errno
import random
import signal
import subprocess

import pytest
from nbdlib import FLUSH, HAS_FLAGS, READ, SEND_FLUSH, SEND_FUA, STATUS, TIMEOUT, WRITE, ZERO, Fake, nbdkit, qemu_nbd
from test_img import IMG, MIB, box  # noqa: F401


@pytest.fixture
def disk(box):
    """A raw disk and a qcow2 one of 8 MiB with data in [1M, 2M) and [5M, 5M + 64k), and a target full of sevens."""
    box.qemu("create", "-q", "-f", "raw", "r", "8M")
    box.io("r", "write -P 5 1M 1M", "write -P 6 5M 64k", fmt="raw")
    box.qemu("convert", "-f", "raw", "-O", "qcow2", "r", "q")
    (box.path / "t").write_bytes(b"\7" * 8 * MIB)
    return box


@pytest.mark.sample(8)
@pytest.mark.parametrize("source,options", [("r", ("-n",)), ("q", ("-n",)), ("r", ()), ("q", ("-S", "0"))])
@pytest.mark.parametrize("server", [(), ("--filter=nozero",), ("--filter=nozero", "zeromode=emulate"), ("--filter=fua", "fuamode=discard"),
    ("--filter=blocksize-policy", "blocksize-minimum=512", "blocksize-maximum=4096", "blocksize-error-policy=error"), ("--no-sr",)])
def test_convert(disk, source, options, server):
    flags, words = [a for a in server if a[0] == "-"], [a for a in server if a[0] != "-"]
    with nbdkit(disk.path, *flags, "file", "t", *words) as sock:
        disk.img("convert", *options, "-O", "raw", source, "nbd:unix:" + sock)
    assert (disk.path / "t").read_bytes() == (disk.path / "r").read_bytes()


def test_convert_from_server_to_server(disk):
    with nbdkit(disk.path, "file", "r") as source, qemu_nbd(disk.path, "-f", "qcow2", "q") as other, \
            nbdkit(disk.path, "file", "t") as target:
        disk.img("convert", "-O", "raw", "nbd:unix:" + source, f"nbd+unix://?socket={target}")
        assert "identical" in disk.img("compare", "nbd:unix:" + target, "nbd:unix:" + other).stdout
        disk.img("convert", "-n", "--target-image-opts", "--image-opts", f"driver=nbd,path={other}", f"driver=nbd,path={target}")
        disk.img("convert", "-n", f"nbd:unix:{other}", f'json:{{"driver": "nbd", "path": "{target}"}}')
    assert (disk.path / "t").read_bytes() == (disk.path / "r").read_bytes()


@pytest.mark.parametrize("operands", [(), ("bs=1M", "count=3"), ("bs=64k", "skip=17"), ("bs=1536", "skip=3", "count=2000")])
def test_dd(disk, operands):
    (disk.path / "theirs").write_bytes(b"\7" * 8 * MIB)
    for tool, name in ((disk.img, "t"), (disk.qemu, "theirs")):
        with nbdkit(disk.path, "file", name) as sock:
            tool("dd", "-f", "raw", "-O", "raw", *operands, "if=r", f"of=nbd:unix:{sock}")
    assert (disk.path / "t").read_bytes() == (disk.path / "theirs").read_bytes()


def test_bench_writes(disk):
    with nbdkit(disk.path, "file", "t") as sock:
        disk.img("bench", "-q", "-w", "-f", "raw", "-c", "256", "-s", "4096", "--pattern", "9", "--flush-interval", "50", "nbd:unix:" + sock)
    assert (disk.path / "t").read_bytes() == b"\x09" * MIB + b"\7" * 7 * MIB


@pytest.mark.parametrize("name", ["nbd:localhost:1", "nbd+unix:x", 'json:{"driver": "nbd"}'])
def test_create_makes_no_file_of_that_name(box, name):
    assert "is no path" in box.fails("create", "-f", "raw", name, "1M")
    assert not list(box.path.iterdir())
    box.img("create", "-q", "-f", "raw", "file:" + name, "1M")
    assert [p.name for p in box.path.iterdir()] == [name]


def test_targets_that_are_refused(disk):
    before = (disk.path / "t").read_bytes()
    with nbdkit(disk.path, "-r", "file", "t") as sock:
        assert "only read" in disk.fails("convert", "-O", "raw", "r", "nbd:unix:" + sock)
    with nbdkit(disk.path, "file", "t") as sock:
        name = "nbd:unix:" + sock
        assert "nbdcopy" in disk.fails("convert", "-O", "qcow2", "r", name)
        assert "nbdcopy" in disk.fails("convert", "-c", "-O", "qcow2", "r", name)
        assert "preallocated" in disk.fails("convert", "-O", "raw", "-o", "preallocation=full", "r", name)
        assert "on the server" in disk.fails("resize", "-f", "raw", name, "16M")
        disk.img("create", "-q", "-f", "raw", "big", "9M")
        assert "fewer than" in disk.fails("convert", "-n", "-O", "raw", "big", name)
    assert (disk.path / "t").read_bytes() == before


class Memory:
    """The answers of a server whose disk is in memory; fault: the error or exception for one kind of requests."""

    def __init__(self, size, **fault):
        self.data = bytearray(b"\7" * size)
        self.fault = fault

    def __call__(self, kind, off, n, data):
        fault = self.fault.get({READ: "read", WRITE: "write", ZERO: "zero", FLUSH: "flush", STATUS: "status"}.get(kind))
        if isinstance(fault, int):
            return fault
        if fault:
            raise fault
        if kind == READ:
            return bytes(self.data[off:off + n])
        if kind == STATUS:
            return [(n, 0)]
        if kind == WRITE:
            self.data[off:off + n] = data
        if kind == ZERO:
            self.data[off:off + n] = bytes(n)
        return None


@pytest.mark.parametrize("flags", [HAS_FLAGS, HAS_FLAGS | SEND_FLUSH, HAS_FLAGS | SEND_FLUSH | SEND_FUA, None])
def test_servers_with_few_operations(disk, flags):
    """A server that can flush gets a flush after the last write."""
    memory = Memory(8 * MIB)
    with Fake(disk.path, 8 * MIB, memory, **({} if flags is None else {"flags": flags})) as server:
        disk.img("convert", "-n", "-O", "raw", "q", server.url)
        kinds = [kind for kind, *_ in server.log]
    assert bytes(memory.data) == (disk.path / "r").read_bytes()
    assert (FLUSH in kinds) == (flags != HAS_FLAGS) and (ZERO in kinds) == (flags is None)
    assert FLUSH not in kinds or max(i for i, k in enumerate(kinds) if k in (WRITE, ZERO)) < len(kinds) - 1 - kinds[::-1].index(FLUSH)


def test_zeros_are_written_where_the_server_cannot(disk):
    memory = Memory(8 * MIB, zero=95)
    with Fake(disk.path, 8 * MIB, memory) as server:
        disk.img("convert", "-n", "-O", "raw", "q", server.url)
    assert bytes(memory.data) == (disk.path / "r").read_bytes()


def test_long_zeros_are_written_in_parts(disk):
    """A part is sent when the part before it has been sent; the socket takes only a piece of a part at once."""
    (disk.path / "t").write_bytes(b"\7" * 64 * MIB)
    disk.img("create", "-q", "-f", "qcow2", "empty", "64M")
    with nbdkit(disk.path, "--filter=nozero", "file", "t") as sock:
        disk.img("convert", "-n", "-f", "qcow2", "-O", "raw", "empty", f"nbd:unix:{sock}")
    assert not any((disk.path / "t").read_bytes())


def test_random_writes(disk):
    """Many small areas of data and zeros."""
    numbers = random.Random(1)
    data = bytearray(8 * MIB)
    for _ in range(300):
        at, n = numbers.randrange(8 * MIB - 200000), numbers.randrange(1, 200000)
        data[at:at + n] = bytes([numbers.randrange(4)]) * n
    (disk.path / "r").write_bytes(data)
    memory = Memory(8 * MIB)
    with Fake(disk.path, 8 * MIB, memory, blocks=(512, 4096, 65536)) as server:
        disk.img("convert", "-f", "raw", "-O", "raw", "r", server.url)
        assert all(n <= 65536 for kind, _, n, _ in server.log if kind == WRITE)
    assert memory.data == data


@pytest.mark.parametrize("options", [("-S", "0"), ("-S", "512"), ("-r", "1G")])
def test_server_of_large_blocks_gets_whole_blocks(disk, options):
    disk.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "odd", "1M")
    disk.io("odd", "write -P 1 512 1k", "write -P 2 5120 512", "write -z 40448 1k", "write -P 3 1048064 512")
    disk.qemu("convert", "-O", "raw", "odd", "want")
    memory = Memory(8 * MIB)
    with Fake(disk.path, 8 * MIB, memory, blocks=(4096, 4096, 65536)) as server:
        disk.img("convert", "-n", *options, "-O", "raw", "odd", server.url)
        assert all(off % 4096 == n % 4096 == 0 for _, off, n, _ in server.log)
    assert memory.data[:MIB] == (disk.path / "want").read_bytes()


@pytest.mark.parametrize("size", [512, MIB + 512, MIB + 100])
def test_half_a_block_is_refused_before_the_first_write(disk, size):
    (disk.path / "r").write_bytes(b"\5" * size)
    with Fake(disk.path, 8 * MIB, Memory(8 * MIB), blocks=(4096, 4096, 65536)) as server:
        for verb in (("convert", "-n", "-f", "raw", "-O", "raw", "r", server.url), ("dd", "-f", "raw", "-O", "raw", "if=r", f"of={server.url}")):
            assert "written in blocks of 4096 bytes" in disk.fails(*verb)
        assert not any(kind in (WRITE, ZERO) for kind, *_ in server.log)


@pytest.mark.parametrize("kind,error,words", [("write", errno.ENOSPC, "No space left"), ("write", errno.EIO, "Input/output error"),
    ("zero", errno.EIO, "Input/output error"), ("flush", errno.EIO, "Input/output error"), ("write", errno.EPERM, "not permitted")])
def test_write_errors(disk, kind, error, words):
    with Fake(disk.path, 8 * MIB, Memory(8 * MIB, **{kind: error})) as server:
        assert words in disk.fails("convert", "-n", "-O", "raw", "q", server.url)


@pytest.mark.parametrize("kind", ["write", "zero", "flush"])
def test_server_vanishes(disk, kind):
    with Fake(disk.path, 8 * MIB, Memory(8 * MIB, **{kind: Fake.Close})) as server:
        words = disk.fails("convert", "-n", "-O", "raw", "q", server.url)
    assert "the connection to the server ended" in words and words.count("\n") == 1, words


@pytest.mark.parametrize("kind", ["write", "zero", "flush"])
def test_interrupt_while_the_server_stalls(disk, kind):
    with Fake(disk.path, 8 * MIB, Memory(8 * MIB, **{kind: Fake.Stall})) as server:
        with subprocess.Popen([IMG, "convert", "-n", "-O", "raw", "q", server.url], cwd=disk.path, text=True, stderr=subprocess.PIPE) as p:
            assert server.reached.wait(TIMEOUT)
            p.send_signal(signal.SIGTERM)
            words = p.communicate(timeout=TIMEOUT)[1]
    assert p.returncode == 1 and words.startswith("cairn-img: ") and "ended" not in words, words
    assert "interrupted" in words, words
