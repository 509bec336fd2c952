"""Disks of NBD servers as images of cairn-img, compared with qemu-img; servers that lie, fail, stall and vanish."""
import errno
import json
import os
import signal
import socket
import subprocess

import pytest
from nbdlib import READ, STATUS, TIMEOUT, Fake, nbdkit, qemu_nbd, serving
from test_img import IMG, MIB, box  # noqa: F401


@pytest.fixture
def disk(box):
    """A raw disk of 8 MiB with data in [1M, 2M) and [5M, 5M + 64k)."""
    box.qemu("create", "-q", "-f", "raw", "r", "8M")
    box.io("r", "write -P 5 1M 1M", "write -P 6 5M 64k", fmt="raw")
    return box


def same_as_qemu(box, *name):
    """All verbs that read treat the disk as qemu-img does."""
    ours, theirs = (json.loads(tool("info", "--output", "json", *name).stdout) for tool in (box.img, box.qemu))
    assert ours["virtual-size"] == theirs["virtual-size"] and "actual-size" not in ours
    assert ours["format"] == theirs["format"].replace("nbd", "raw")
    assert "disk size: unavailable" in box.img("info", *name).stdout
    for verb in (("map", "--output", "json"), ("measure", "-O", "qcow2", "--output", "json")):
        ours, theirs = (json.loads(tool(*verb, *name).stdout) for tool in (box.img, box.qemu))
        assert ours == theirs
    for fmt in ("raw", "qcow2"):
        box.img("convert", "-O", fmt, *name, "x")
        box.qemu("compare", "-F", fmt, "-f", "raw", "r", "x")
    box.img("convert", "-c", "-O", "qcow2", *name, "x")
    box.qemu("compare", "-f", "raw", "r", "x")
    box.img("bench", "-q", "-c", "10", *name)


@pytest.mark.parametrize("name", ["nbd:unix:{}", "nbd:unix:{}:exportname=a b/c", "nbd+unix:///?socket={}", "nbd+unix:///n%20m?socket={}",
    'json:{{"driver": "nbd", "server": {{"type": "unix", "path": "{}"}}, "export": "a b"}}',
    'json:{{"driver": "raw", "file": {{"driver": "nbd", "server": {{"type": "unix", "path": "{}"}}}}}}',
    "driver=nbd,server.type=unix,server.path={},export=x", "driver=nbd,path={}", "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={}"])
def test_unix_sockets(disk, name):
    with nbdkit(disk.path, "file", "r") as sock:
        name = name.format(sock)
        same_as_qemu(disk, *(["--image-opts"] if name.startswith("driver") else []), name)
        if not name.startswith("driver"):
            assert "identical" in disk.img("compare", "-s", name, "r").stdout
            disk.img("dd", "bs=1M", "skip=1", "count=3", f"if={name}", "of=ours")
            disk.qemu("dd", "bs=1M", "skip=1", "count=3", f"if={name}", "of=theirs")
            assert (disk.path / "ours").read_bytes() == (disk.path / "theirs").read_bytes()


def test_hosts_and_export_names(disk):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    # Hand over the socket as systemd does: another program could take a port that is free only now.
    activate = f'exec 3<&{listener.fileno()} && export LISTEN_FDS=1 LISTEN_PID=$$ && exec "$@"'
    argv = ("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-x", "a b", "--pid-file={pid}", "r")
    with listener, serving(disk.path, "bash", "-c", activate, "bash", *argv, pass_fds=[listener.fileno()]):
        for name in (f"nbd:127.0.0.1:{port}:exportname=a b", f"nbd://127.0.0.1:{port}/a%20b", f"nbd+tcp://127.0.0.1:{port}/a%20b",
                     json.dumps({"driver": "nbd", "server": {"type": "inet", "host": "127.0.0.1", "port": str(port)}, "export": "a b"})):
            same_as_qemu(disk, ("json:" if name[0] == "{" else "") + name)
        assert "a%20b" in disk.img("info", f"nbd:127.0.0.1:{port}:exportname=a b").stdout
        for name in (f"nbd:127.0.0.1:{port}", f"nbd://127.0.0.1:{port}/other"):
            assert "cannot connect" in disk.fails("info", name)


@pytest.mark.parametrize("size", [1, 511, 513, MIB + 100])
def test_odd_sizes(disk, size):
    (disk.path / "r").write_bytes(b"\7" * size)
    with nbdkit(disk.path, "file", "r") as sock:
        disk.img("convert", "-O", "raw", "nbd:unix:" + sock, "x")
        disk.img("convert", "-O", "raw", "r", "y")
        assert (disk.path / "x").read_bytes() == (disk.path / "y").read_bytes()
        assert "identical" in disk.img("compare", "nbd:unix:" + sock, "r").stdout


def test_holes_are_not_read(disk):
    with Fake(disk.path, 1 << 40, lambda kind, off, n, _: [(n, 3)] if kind == STATUS else b"\0" * n) as server:
        disk.img("convert", "-f", "raw", "-O", "qcow2", server.url, "x")
        assert all(kind == STATUS for kind, *_ in server.log)


def test_map_shows_the_bitmap_that_the_user_names(box):
    box.qemu("create", "-q", "-f", "raw", "base", "4M")
    box.io("base", "write 0 2M", fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "q", "4M")
    box.qemu("bitmap", "--add", "q", "changes")
    box.io("q", "write 1M 1M", "write -z 3M 64k")
    with qemu_nbd(box.path, "-r", "-A", "-B", "changes", "-f", "qcow2", "q") as sock:
        name = f"driver=nbd,server.type=unix,server.path={sock}"
        for context in ("qemu:allocation-depth", "qemu:dirty-bitmap:changes"):
            for output in ("json", "human"):
                shown = ["map", "--output", output, "--image-opts", f"{name},x-dirty-bitmap={context}"]
                assert box.img(*shown).stdout == box.qemu(*shown).stdout
        assert '"data": false' in box.img("map", "--output", "json", "--image-opts", f"{name},x-dirty-bitmap=qemu:dirty-bitmap:changes").stdout
        assert "no 'qemu:dirty-bitmap:x'" in box.fails("map", "--image-opts", f"{name},x-dirty-bitmap=qemu:dirty-bitmap:x")
        for verb in (("convert", "-O", "raw"), ("info",), ("measure",), ("bench", "-w")):
            target = ["x"] if verb[0] == "convert" else []
            assert "only `map`" in box.fails(*verb, "--image-opts", f"{name},x-dirty-bitmap=qemu:allocation-depth", *target)
        assert not (box.path / "x").exists()
    assert "needs driver=nbd" in box.fails("map", "--image-opts", "driver=qcow2,file.filename=q,x-dirty-bitmap=changes")


def test_map_shows_zeros_with_space_as_qemu_img_does(box):
    def answer(kind, off, n, _):
        return [(max(MIB - off, 0), 2), (MIB, 3)][off >= MIB:] if kind == STATUS else bytes(n)

    with Fake(box.path, 2 * MIB, answer) as server:
        shown = ["map", "--output", "json", "-f", "raw", server.url]
        ours = json.loads(box.img(*shown).stdout)
        assert [(x["zero"], x["data"]) for x in ours] == [(True, True), (True, False)]
        assert ours == json.loads(box.qemu("map", "--output", "json", "-f", "raw", "nbd:unix:" + server.socket).stdout)


def test_without_block_status_all_is_read(disk):
    with nbdkit(disk.path, "--no-sr", "file", "r") as sock:
        same_as_qemu(disk, "nbd:unix:" + sock)


def test_qcow2_is_refused(disk):
    disk.qemu("convert", "-f", "raw", "-O", "qcow2", "r", "q")
    with nbdkit(disk.path, "file", "q") as sock:
        name = "nbd:unix:" + sock
        for verb in (("info",), ("map",), ("measure",), ("info", "-f", "qcow2")):
            words = disk.fails(*verb, name)
            assert "nbdcopy" in words and "qemu-nbd" in words
        assert "driver" not in disk.fails("info", "--image-opts", f"driver=qcow2,file.driver=nbd,file.path={sock}")
        disk.img("convert", "-f", "raw", "-O", "raw", name, "x")
        assert (disk.path / "x").read_bytes() == (disk.path / "q").read_bytes()
    with qemu_nbd(disk.path, "-f", "qcow2", "q") as sock:
        same_as_qemu(disk, "nbd:unix:" + sock)


@pytest.mark.parametrize("verb", [("check",), ("snapshot", "-l"), ("amend", "-o", "compat=1.1"), ("trim",),
                                  ("rebase", "-b", ""), ("commit",)])
def test_verbs_that_need_a_file(disk, verb):
    assert "this needs a file" in disk.fails(*verb, "nbd:unix:/nowhere")


@pytest.mark.parametrize("name,what", [
    ("nbd:unix:/nowhere", "No such file"), ("nbd:host", "the port is missing"), ("nbd:host:x", "no port"), ("nbd:", "the port is missing"),
    ("nbd:unix:", "at a socket or at a host"), ("nbd::1", "at a socket or at a host"), ("nbd:[::1]", "the port is missing"), ("nbd:a b:1", "no name of a host"),
    ("nbds://localhost", "TLS"), ("nbds+unix://?socket=a", "TLS"), ("nbd+ssh://localhost", "protocol"), ("nbd+unix:///x", "cannot connect"),
    ("nbd+unix:///x?tls-certificates=/etc&socket=/nowhere", "cannot connect"), ("nbd://" + "a" * 5000, "more than 4095"),
    ("nbd:unix:" + "%" * 2000, "more than 4095"), ('json:{"driver": "nbd"}', "at a socket or at a host"),
    ('json:{"driver": "nbd", "path": "a", "host": "b"}', "at a socket or at a host"),
    ('json:{"driver": "nbd", "server": {"type": "unix", "host": "b"}}', "server.type is unix"),
    ('json:{"driver": "nbd", "path": "a", "filename": "b"}', "no filename"), ('json:{"driver": "raw", "path": "a"}', "needs driver=nbd"),
    ('json:{"driver": "nbd", "path": "a", "tls-creds": "b"}', "TLS")])
def test_bad_names(box, name, what):
    assert what in box.fails("info", name)


def test_library_is_missing(disk):
    """Without libnbd, all works but NBD, and a sentence says what to install."""
    (disk.path / "lib").mkdir()
    (disk.path / "lib/libnbd.so.0").write_text("no library")
    p = subprocess.run([IMG, "info", "nbd:unix:/nowhere"], env={**os.environ, "LD_LIBRARY_PATH": str(disk.path / "lib")},
                       capture_output=True, text=True, timeout=TIMEOUT)
    assert p.returncode == 1 and "install the package libnbd0" in p.stderr


# ---- hostile servers ----

PATTERN = bytes(range(256)) * 2 * 16  # 8 KiB


def pattern(kind, off, n, _=None):
    """8 KiB of data at the start; then zeros."""
    if kind == STATUS:
        return [(max(len(PATTERN) - off, 0), 0), (n, 3)] if off < len(PATTERN) else [(n, 3)]
    return (PATTERN + bytes(off + n))[off:off + n]


def convert_checked(box, server, *options):
    box.img("convert", "-f", "raw", "-O", "raw", *options, server.url, "x")
    data = (box.path / "x").read_bytes()
    assert len(data) == server.size and data[:len(PATTERN)] == PATTERN and not any(data[len(PATTERN):])


@pytest.mark.parametrize("extents", [
    lambda n: [(100, 0), (412, 3), (100, 3), (8192 - 612, 0), (n, 3)], lambda n: [(1, 0)] * 9000 + [(n, 3)], lambda n: [(8192, 0), (0, 3), (n, 3)],
    lambda n: [(8192, 1), (0xffffffff, 2)], lambda n: [(100, 0)], lambda n: [(8192, 0xfffffffd), (n, 3)]])
def test_odd_extents_lose_nothing(box, extents):
    def answer(kind, off, n, data):
        return extents(n) if kind == STATUS and not off else [(n, 0)] if kind == STATUS else pattern(kind, off, n)

    with Fake(box.path, MIB, answer) as server:
        convert_checked(box, server)


def test_extent_without_length(box):
    for extents in ([(0, 3)], [(0, 0), (MIB, 0)], []):
        with Fake(box.path, MIB, lambda kind, off, n, data, x=extents: x if kind == STATUS else bytes(n)) as server:
            box.fails("map", "-f", "raw", server.url)
            box.fails("convert", "-f", "raw", "-O", "raw", server.url, "x")
    assert not (box.path / "x").exists()


@pytest.mark.parametrize("size,blocks,what", [
    (1 << 63, None, "size"), ((1 << 64) - 1, None, "size"), ((1 << 63) - 1, None, "size"), (MIB, (65536, 65536, 1 << 20), "multiples of 65536"),
    (MIB + 512, (4096, 4096, 1 << 20), "multiples of 4096")])
def test_sizes_that_no_disk_has(box, size, blocks, what):
    with Fake(box.path, size, pattern, blocks=blocks) as server:
        assert what in box.fails("info", server.url)


def test_small_requests(box):
    """A server whose limits are those of a sector."""
    for blocks in ((512, 4096, 4096), (4096, 4096, 65536)):
        with Fake(box.path, MIB, pattern, blocks=blocks) as server:
            convert_checked(box, server)
            assert all(n <= blocks[2] and n % blocks[0] == 0 for kind, _, n, _ in server.log if kind == READ)


@pytest.mark.parametrize("greeting", [b"NBDMAGICNONSENSE" + bytes(100), b"\0" * 200, b"HTTP/1.1 200 OK\r\n\r\n" * 10])
def test_no_server_of_nbd(box, greeting):
    with Fake(box.path, MIB, pattern, greeting=greeting) as server:
        assert "cannot connect" in box.fails("info", server.url)


def test_read_errors(box):
    def answer(kind, off, n, data):
        return errno.EIO if kind == READ and off <= 4096 < off + n else pattern(kind, off, n)

    with Fake(box.path, MIB, answer) as server:
        assert "Input/output error" in box.fails("convert", "-f", "raw", "-O", "raw", server.url, "x")
        assert not (box.path / "x").exists()
        done = box.img("convert", "--salvage", "-f", "raw", "-O", "raw", server.url, "x")
        assert done.stderr.count("error while reading offset") == 1 and "offset 4096" in done.stderr
        expected = PATTERN[:4096] + bytes(512) + PATTERN[4608:]
        assert (box.path / "x").read_bytes() == expected + bytes(MIB - len(expected))


def test_status_errors(box):
    with Fake(box.path, MIB, lambda kind, off, n, data: errno.EIO if kind == STATUS else bytes(n)) as server:
        assert "cannot look up offset 0" in box.fails("map", "-f", "raw", server.url)
        box.img("convert", "--salvage", "-f", "raw", "-O", "raw", server.url, "x")


@pytest.mark.parametrize("when", [STATUS, READ])
def test_server_vanishes(box, when):
    def answer(kind, off, n, data):
        if kind == when:
            raise Fake.Close
        return pattern(kind, off, n)

    (box.path / "y").touch()
    with Fake(box.path, MIB, answer) as server:
        for options in ((), ("-c",)):
            words = box.fails("convert", "-f", "raw", "-O", "qcow2", *options, server.url, "x")
            assert "the connection to the server ended" in words and words.count("\n") == 1, words
        assert not list(box.path.glob("x*"))
        os.truncate(box.path / "y", MIB)
        box.img("compare", "-f", "raw", "-F", "raw", server.url, "y", status=3 if when == STATUS else 4)


@pytest.mark.parametrize("when", ["greeting", STATUS, READ])
@pytest.mark.parametrize("options", [(), ("-c",), ("-p", "--salvage")])
def test_interrupt_while_the_server_stalls(box, when, options):
    def answer(kind, off, n, data):
        if kind == when:
            raise Fake.Stall
        return pattern(kind, off, n)

    with Fake(box.path, MIB, answer, greeting="stall" if when == "greeting" else None) as server:
        with subprocess.Popen([IMG, "convert", "-f", "raw", "-O", "qcow2", *options, server.url, "x"], cwd=box.path, text=True,
                              stderr=subprocess.PIPE) as p:
            assert server.reached.wait(TIMEOUT)
            p.send_signal(signal.SIGINT)
            words = p.communicate(timeout=TIMEOUT)[1]
    assert p.returncode == -signal.SIGINT and words.startswith("cairn-img: ") and "interrupted" in words and "ended" not in words, words
    assert not list(box.path.glob("x*"))
