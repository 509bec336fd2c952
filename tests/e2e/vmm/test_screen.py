"""A screen: the guest sets modes and draws, and `cairn screenshot` shows it, also after a revert, in a clone and after
a save. The guest is the bare-metal interpreter."""

import json
import os
import socket
import struct
import subprocess
import zlib

import pytest

import guestlib
from conftest import BUILD, Qmp, QmpError, until
from forklib import image, vm  # noqa: F401 (vm is a fixture)
from fuselib import Op, fuse
from test_qmp import qemu  # noqa: F401 (a fixture)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Picture:
    def __init__(self, width, height, rgb):
        self.width, self.height, self.rgb = width, height, rgb

    def at(self, x, y):
        i = 3 * (y * self.width + x)
        return tuple(self.rgb[i:i + 3])


def read_ppm(path):
    head, size, depth, rgb = path.read_bytes().split(b"\n", 3)
    assert (head, depth) == (b"P6", b"255")
    width, height = map(int, size.split())
    assert len(rgb) == 3 * width * height
    return Picture(width, height, rgb)


def read_png(path):
    """Read a PNG as Cairn writes it: without a filter, with three bytes a pixel."""
    data, chunks, at = path.read_bytes(), [], 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        n, = struct.unpack(">I", data[at:at + 4])
        kind, content, crc = data[at + 4:at + 8], data[at + 8:at + 8 + n], data[at + 8 + n:at + 12 + n]
        assert zlib.crc32(kind + content) == struct.unpack(">I", crc)[0]
        chunks.append((kind, content))
        at += 12 + n
    assert chunks[0][0] == b"IHDR" and chunks[-1] == (b"IEND", b"")
    width, height, bits, kind, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (bits, kind, rest) == (8, 2, [0, 0, 0])
    raw = zlib.decompress(b"".join(c for k, c in chunks if k == b"IDAT"))
    step = 3 * width + 1
    assert len(raw) == step * height and not any(raw[::step])
    return Picture(width, height, b"".join(raw[i + 1:i + step] for i in range(0, len(raw), step)))


def shot(daemon, name, folder, kind="ppm"):
    path = folder / f"{name}.{kind}"
    path.unlink(missing_ok=True)
    daemon.cairn("screenshot", name, str(path))
    return read_ppm(path) if kind == "ppm" else read_png(path)


def ready(vm, **keys):
    vm.start(screen=True, **keys)
    vm.run("src", "screen open")


def draw(vm, name, mode="640 480 32", rect="10 20 30 40", value=0xff0000):
    vm.run(name, f"screen mode {mode}")
    vm.run(name, f"screen rect {rect} {value}")


def test_screenshot_shows_what_the_guest_draws(vm, daemon, tmp_path):
    ready(vm)
    assert "the screen is off" in daemon.cairn("screenshot", "src", str(tmp_path / "none.ppm"), ok=False).stderr
    assert not (tmp_path / "none.ppm").exists()
    draw(vm, "src")
    for kind in ("ppm", "png"):
        p = shot(daemon, "src", tmp_path, kind)
        assert (p.width, p.height) == (640, 480)
        assert [p.at(*xy) for xy in ((9, 20), (10, 20), (39, 59), (40, 59), (39, 60))] == [
            (0, 0, 0), RED, RED, (0, 0, 0), (0, 0, 0)]
    assert shot(daemon, "src", tmp_path).rgb == shot(daemon, "src", tmp_path, "png").rgb


def test_16_bits_and_a_part_of_a_larger_screen(vm, daemon, tmp_path):
    ready(vm)
    draw(vm, "src", "800 600 16 1024 0 0", "100 100 8 8", 0xf800)
    vm.run("src", "screen rect 108 100 8 8 " + str(0x07e0))
    vm.run("src", "screen rect 116 100 8 8 " + str(0x001f))
    p = shot(daemon, "src", tmp_path)
    assert [p.at(x, 100) for x in (99, 100, 108, 116, 124)] == [(0, 0, 0), RED, GREEN, BLUE, (0, 0, 0)]
    vm.run("src", "screen mode 320 200 16 1024 50 60")
    p = shot(daemon, "src", tmp_path)
    assert (p.width, p.height) == (320, 200)
    assert [p.at(x, 40) for x in (49, 50, 58, 66, 74)] == [(0, 0, 0), RED, GREEN, BLUE, (0, 0, 0)]


@pytest.mark.parametrize("mode", ["4000 4000 32", "65535 65535 32 65535 65535 65535", "1920 1081 32 1942", "640 480 24",
                                  "640 480 8", "63 480 32", "0 0 32", "1024 768 32 65535 0 0", "1024 768 32 1024 0 1400"])
def test_mode_beyond_the_framebuffer_shows_nothing(vm, daemon, tmp_path, mode):
    ready(vm)
    vm.run("src", f"screen mode {mode}")
    assert "the screen is off" in daemon.cairn("screenshot", "src", str(tmp_path / "none.ppm"), ok=False).stderr


def test_largest_mode(vm, daemon, tmp_path):
    ready(vm)
    draw(vm, "src", "1920 1080 32", "1919 1079 1 1", 0x0000ff)
    p = shot(daemon, "src", tmp_path, "png")
    assert (p.width, p.height) == (1920, 1080) and p.at(1919, 1079) == BLUE


def test_guest_moves_the_framebuffer(vm, daemon, tmp_path):
    """The guest moves it over its own RAM, where KVM cannot map it, and back."""
    ready(vm)
    first = guestlib.fields(vm.run("src", "screen show")[-1])
    draw(vm, "src")
    for at in (0xd0000000, 32 << 20, first["memory"]):
        vm.run("src", f"screen move {at}")
        vm.run("src", f"rd64 {at}")
    vm.run("src", "screen rect 0 0 1 1 " + str(0x00ff00))
    p = shot(daemon, "src", tmp_path)
    assert p.at(0, 0) == GREEN and p.at(10, 20) == RED


def test_revert_brings_the_screen_back(vm, daemon, tmp_path):
    ready(vm, disks=[image(tmp_path / "a.qcow2")])
    draw(vm, "src")
    before = shot(daemon, "src", tmp_path).rgb
    daemon.cairn("snapshot-create-as", "src", "s1")
    draw(vm, "src", "800 600 32", "0 0 800 600", 0x00ff00)
    assert shot(daemon, "src", tmp_path).at(799, 599) == GREEN
    daemon.cairn("snapshot-revert", "src", "s1")
    p = shot(daemon, "src", tmp_path)
    assert (p.width, p.height) == (640, 480) and p.rgb == before
    vm.run("src", "screen rect 10 20 30 40 255")
    assert shot(daemon, "src", tmp_path).at(10, 20) == BLUE


def test_clone_has_a_screen_of_its_own(vm, daemon, tmp_path):
    ready(vm)
    draw(vm, "src")
    vm.clone("copy")
    assert shot(daemon, "copy", tmp_path).rgb == shot(daemon, "src", tmp_path).rgb
    vm.run("copy", "screen rect 10 20 30 40 255")
    assert shot(daemon, "copy", tmp_path).at(10, 20) == BLUE
    assert shot(daemon, "src", tmp_path).at(10, 20) == RED


def test_save_and_new_process_keep_the_screen(vm, daemon, tmp_path):
    ready(vm)
    draw(vm, "src")
    before = shot(daemon, "src", tmp_path).rgb
    daemon.cairn("restart-process", "src")
    assert shot(daemon, "src", tmp_path).rgb == before
    daemon.cairn("managedsave", "src")
    daemon.cairn("start", "src")
    assert shot(daemon, "src", tmp_path).rgb == before


def test_reset_turns_the_screen_off(vm, daemon, tmp_path):
    ready(vm)
    draw(vm, "src")
    daemon.cairn("reset", "src")
    while vm.consoles["src"].line() != "interp":
        pass
    assert "the screen is off" in daemon.cairn("screenshot", "src", str(tmp_path / "none.ppm"), ok=False).stderr
    vm.run("src", "screen open")
    vm.run("src", "screen mode 640 480 32")
    assert not any(shot(daemon, "src", tmp_path).rgb)


def test_screenshot_does_not_wait_for_a_snapshot(vm, daemon, tmp_path):
    ready(vm, disks=[image(tmp_path / "a.qcow2")])
    draw(vm, "src")
    q = daemon.qmp()
    q.run("snapshot-create", vm="src", name="slow", rate=1000, job_id="j")
    until(lambda: [j for j in q.jobs() if j["id"] == "j"][0]["current-progress"])  # memory is being written
    assert shot(daemon, "src", tmp_path).at(10, 20) == RED
    assert shot(daemon, "src", tmp_path, "png").at(10, 20) == RED
    assert [j for j in q.jobs() if j["id"] == "j"][0]["status"] == "running"
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")


def test_slow_file_holds_nothing_but_other_screenshots(vm, daemon, tmp_path):
    ready(vm, disks=[image(tmp_path / "a.qcow2")])
    draw(vm, "src")
    q, path = daemon.qmp(), str(tmp_path / "other.ppm")
    with fuse(tmp_path / "fuse", slow=b"") as f:
        f.hang(Op.WRITE)
        with open(f["slow"], "r+b", buffering=0) as picture:
            socket.send_fds(q.sock, [json.dumps({"execute": "vm-screenshot", "arguments": {"vm": "src"}}).encode()], [picture.fileno()])
        until(lambda: f.hanging())
        for args in (["screenshot", "src", path], ["restart-process", "src"]):
            assert "screenshot of the VM is being written; try again afterwards" in daemon.cairn(*args, ok=False).stderr
        daemon.cairn("snapshot-create-as", "src", "s1")
        vm.run("src", "screen rect 10 20 30 40 255")
        f.release()
        assert q.answer()["return"] == {}
    assert shot(daemon, "src", tmp_path).at(10, 20) == BLUE
    daemon.cairn("restart-process", "src")


def test_vm_without_a_screen_is_told(vm, daemon, tmp_path):
    vm.start()
    assert 'set "screen": true' in daemon.cairn("screenshot", "src", str(tmp_path / "a.png"), ok=False).stderr
    daemon.cairn("destroy", "src")
    assert daemon.cairn("screenshot", "src", str(tmp_path / "a.png"), ok=False).returncode == 4
    assert "screen" not in json.loads(daemon.cairn("dumpjson", "src").stdout)


# ---- keyboard ----

def read_keys(vm, name="src"):
    said = vm.run(name, "keyboard read")[-1]
    return said.replace("0x", "").split()[1:-1]


def ready_keyboard(vm, **keys):
    ready(vm, **keys)
    vm.run("src", "keyboard ask 244")  # F4: the answer would be the first byte otherwise
    read_keys(vm)


def test_send_key_presses_and_releases(vm, daemon):
    ready_keyboard(vm)
    daemon.cairn("send-key", "src", "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE")
    assert read_keys(vm) == ["1d", "38", "e0", "53", "e0", "d3", "b8", "9d"]
    daemon.cairn("send-key", "src", "--codeset", "atset1", "--holdtime", "1", "0xe04d", "30")
    assert read_keys(vm) == ["e0", "4d", "1e", "9e", "e0", "cd"]
    # Requests follow one another, and each is answered after its keys are released.
    daemon.qmp().run("vm-send-key", vm="src", keys=[30, "KEY_B"], **{"hold-time": 5})
    assert read_keys(vm) == ["1e", "30", "b0", "9e"]


@pytest.mark.parametrize("args, said", [
    (["KEY_NOTHING"], "is no key of codeset linux"), (["--codeset", "win32", "1"], "linux, xt, atset1"), (["256"], "is no key"),
    (["--codeset", "xt", "KEY_A"], "only codeset linux has names"), (["--holdtime", "20000", "KEY_A"], "1 to 10000"),
    (["--holdtime", "x", "KEY_A"], "number of milliseconds"), (["KEY_A"] * 17, "16 keys")])
def test_wrong_keys_are_refused(vm, daemon, args, said):
    ready_keyboard(vm)
    assert said in daemon.cairn("send-key", "src", *args, ok=False).stderr
    assert read_keys(vm) == []


# ---- QEMU's words ----

def qmp_of(daemon, name="src"):
    q = Qmp(daemon.cairn("qmp-path", name).stdout.rstrip("\n"))
    daemon.clients.append(q)
    return q


def test_qmp_sends_keys(vm, daemon):
    """QEMU's names of keys, and its numbers: those of set 1, with a bit for the prefix."""
    ready_keyboard(vm)
    q = qmp_of(daemon)
    q.run("send-key", keys=[{"type": "qcode", "data": "ctrl"}, {"type": "number", "data": 0x38}, {"type": "number", "data": 0xd3}])
    assert read_keys(vm) == ["1d", "38", "e0", "53", "e0", "d3", "b8", "9d"]
    q.run("send-key", keys=[{"type": "qcode", "data": k} for k in ("a", "f12", "ret")], **{"hold-time": 1})
    assert read_keys(vm) == ["1e", "58", "1c", "9c", "d8", "9e"]
    for keys, said in (([], "give 1 to 16 keys"), ([{"type": "qcode", "data": "a"}] * 17, "give 1 to 16 keys"), (["a"], "each key is an object"),
                       ([{"type": "qcode", "data": "KEY_A"}], '"KEY_A" is no key that QEMU names'), ([{"type": "number", "data": 256}], "is no key"),
                       ([{"type": "number", "data": "a"}], "each key is an object")):
        with pytest.raises(QmpError, match=said):
            q.run("send-key", keys=keys)
    assert read_keys(vm) == []


def test_qmp_knows_qemus_keys(vm, daemon, qemu):  # noqa: F811
    ready(vm)
    q = qmp_of(daemon)
    names, = (e["values"] for e in qemu.by_name.values() if e["meta-type"] == "enum" and {"ret", "spc"} <= set(e["values"]))
    for name in set(names) - {"unmapped"}:
        q.run("send-key", keys=[{"type": "qcode", "data": name}], **{"hold-time": 1})


def test_qmp_writes_pictures(vm, daemon, tmp_path):
    """A picture replaces an earlier one. A target that is no regular file stays as it is."""
    ready(vm)
    q = qmp_of(daemon)
    path = tmp_path / "a.ppm"
    with pytest.raises(QmpError, match="the screen is off"):
        q.run("screendump", filename=str(path))
    assert not path.exists()
    draw(vm, "src")
    for _ in range(2):
        q.run("screendump", filename=str(path))
        assert read_ppm(path).at(15, 25) == RED
    q.run("screendump", filename=str(path), format="png")
    assert read_png(path).at(15, 25) == RED
    os.mkfifo(tmp_path / "pipe")
    for args, said in (({"filename": "a.ppm"}, "needs an absolute path"), ({"filename": str(tmp_path / "pipe")}, "No such device|is not a regular file"),
                       ({"filename": str(tmp_path / "none" / "a")}, "No such file"), ({"filename": str(path), "format": "gif"}, "use ppm or png")):
        with pytest.raises(QmpError, match=said):
            q.run("screendump", **args)
    assert read_png(path).at(15, 25) == RED


def test_vm_without_a_screen_has_no_keyboard(vm, daemon):
    vm.start()
    assert 'set "screen": true' in daemon.cairn("send-key", "src", "KEY_A", ok=False).stderr
    assert vm.run("src", "keyboard ask 242")[-1].split() == ["0xfe"]
    daemon.cairn("destroy", "src")
    assert daemon.cairn("send-key", "src", "KEY_A", ok=False).returncode == 4


def test_key_held_over_a_snapshot_is_released_by_the_revert(vm, daemon, tmp_path):
    ready_keyboard(vm, disks=[image(tmp_path / "a.qcow2")])
    held = subprocess.Popen([os.path.join(BUILD, "cairn"), "send-key", "src", "--holdtime", "10000", "KEY_LEFTSHIFT"], env=daemon.env)
    try:
        until(lambda: read_keys(vm) == ["2a"])
        daemon.cairn("snapshot-create-as", "src", "s1")
        daemon.cairn("snapshot-revert", "src", "s1")
        assert read_keys(vm) == ["aa"]
    finally:
        held.kill()
        held.wait()


def test_new_process_and_clone_keep_unread_keys(vm, daemon):
    ready_keyboard(vm)
    daemon.cairn("send-key", "src", "KEY_A")
    vm.clone("copy")
    daemon.cairn("restart-process", "src")
    for name in ("src", "copy"):
        assert read_keys(vm, name) == ["1e", "9e"]
    daemon.cairn("send-key", "copy", "KEY_B")
    assert read_keys(vm, "copy") == ["30", "b0"] and read_keys(vm) == []
