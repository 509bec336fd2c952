"""cairn cp with cairn-agent: the real agent runs as a process of this machine, behind a fake VM; test_guest.py has
QEMU's agent."""

import os
import pathlib
import pty
import signal
import struct
import subprocess

import pytest
from conftest import BUILD, until
from test_exec import GARBAGE, STARTED, frame, liar, vm  # noqa: F401


def record(kind, data=b"", mode=0o644):
    return struct.pack("<BBHI", ord(kind), 0, mode, len(data)) + data


def tree(path):
    """Return {name: (type, mode, content)} of all below a folder."""
    found = {}
    for name in sorted(pathlib.Path(path).rglob("*")):
        st = name.lstat()
        content = os.readlink(name) if name.is_symlink() else name.read_bytes() if name.is_file() else None
        found[str(name.relative_to(path))] = (st.st_mode if not name.is_symlink() else 0, content)
    return found


@pytest.fixture
def source(tmp_path):
    """A folder with all that is copied."""
    top = tmp_path / "source"
    (top / "deep/er").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o750)
    (top / "empty file").touch()
    (top / "deep/er/data").write_bytes(os.urandom(1_000_000))
    (top / "deep/er/data").chmod(0o600)
    (top / "program").write_text("#!/bin/sh\n")
    (top / "program").chmod(0o755)
    (top / "deep/link").symlink_to("../program")
    (top / "dangling").symlink_to("/nowhere")
    (top / "deep").chmod(0o555)
    (top / ("n" * 255)).write_text("long name")
    (top / "new\nline\xff").write_text("strange name")
    yield top
    for folder in tmp_path.rglob("deep"):
        folder.chmod(0o755)


def test_folder_both_ways(vm, source, tmp_path):  # noqa: F811
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    assert vm.cairn("cp", str(source), f"web1:{there}").stderr == ""
    assert tree(there / "source") == tree(source)
    # If the target does not exist, the copy gets its name.
    vm.cairn("cp", f"web1:{there}/source/", str(back))
    assert tree(back) == tree(source)
    back2 = tmp_path / "back2"
    back2.mkdir()
    vm.cairn("cp", f"web1:{there}/source", str(back2))
    assert tree(back2 / "source") == tree(source)


def test_folder_into_the_same_place_again(vm, source, tmp_path):  # noqa: F811
    (source / "deep").chmod(0o755)
    there = tmp_path / "there"
    there.mkdir()
    vm.cairn("cp", str(source), f"web1:{there}")
    (there / "source/other").write_text("stays")
    (there / "source/program").write_text("a longer text than that of the new program")
    vm.cairn("cp", str(source), f"web1:{there}")
    assert (there / "source/other").read_text() == "stays"
    (there / "source/other").unlink()
    assert tree(there / "source") == tree(source)


def test_permissions_of_what_exists_stay(vm, tmp_path):  # noqa: F811
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "old").write_text("old text")
    (tmp_path / "old").chmod(0o600)
    vm.cairn("cp", f"web1:{tmp_path}/new", str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "new" and (tmp_path / "old").stat().st_mode & 0o777 == 0o600


def test_control_characters_reach_no_terminal(vm, tmp_path):  # noqa: F811
    (tmp_path / "file").write_bytes(b"a\033[2Jb\xc2\x9bc\n" + b"x" * 9000)
    master, slave = pty.openpty()
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "cp", f"web1:{tmp_path}/file", "-"], env=vm.env, stdout=slave) as p:
        os.close(slave)
        text = b""
        while len(text) < 9008:
            text += os.read(master, 4096)
        assert p.wait(50) == 0
    os.close(master)
    assert text.startswith(b"a?[2Jb??c\r\n") and b"\033" not in text


def test_large_file_and_streams(vm, tmp_path):  # noqa: F811
    data = os.urandom(30_000_000)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "big").chmod(0o640)
    vm.cairn("cp", str(tmp_path / "big"), f"web1:{tmp_path}/there")
    assert (tmp_path / "there").read_bytes() == data and (tmp_path / "there").stat().st_mode & 0o777 == 0o640
    r = subprocess.run([os.path.join(BUILD, "cairn"), "cp", f"web1:{tmp_path}/there", "-"], env=vm.env, stdout=subprocess.PIPE, check=True)
    assert r.stdout == data
    subprocess.run([os.path.join(BUILD, "cairn"), "cp", "-", f"web1:{tmp_path}/piped"], env=vm.env, input=data, check=True)
    assert (tmp_path / "piped").read_bytes() == data


def test_progress_bar_on_a_terminal(vm, tmp_path):  # noqa: F811
    master, slave = pty.openpty()
    with open(tmp_path / "big", "wb") as f:
        f.truncate(1 << 40)
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "cp", str(tmp_path / "big"), f"web1:{tmp_path}/there"], env=vm.env, stderr=slave) as p:
        os.close(slave)
        text = b""
        while b"/s" not in text:
            text += os.read(master, 4096)
        os.close(master)
        p.kill()
    assert text.startswith(b"\rCopy: [")


def test_special_files_are_skipped(vm, tmp_path):  # noqa: F811
    (tmp_path / "s").mkdir()
    os.mkfifo(tmp_path / "s/fifo")
    (tmp_path / "s/file").touch()
    assert "1 sockets, pipes or devices were not copied" in vm.cairn("cp", str(tmp_path / "s"), f"web1:{tmp_path}/t").stderr
    assert list(tree(tmp_path / "t")) == ["file"]


def test_errors(vm, tmp_path):  # noqa: F811
    (tmp_path / "kept").write_text("old")
    assert "No such file" in vm.cairn("cp", f"web1:{tmp_path}/missing", str(tmp_path / "kept"), ok=1).stderr
    assert (tmp_path / "kept").read_text() == "old"
    assert "No such file" in vm.cairn("cp", str(tmp_path / "missing"), "web1:/x", ok=False).stderr
    assert "in the guest: /proc/x/y: No such file" in vm.cairn("cp", str(tmp_path / "kept"), "web1:/proc/x/y", ok=False).stderr
    assert "has no name of its own" in vm.cairn("cp", "..", "web1:/tmp/", ok=False).stderr
    (tmp_path / "f").mkdir()
    assert "s a directory" in vm.cairn("cp", f"web1:{tmp_path}/f", "-", ok=False).stderr
    # A folder where a file is, and a file where a folder is.
    (tmp_path / "g/f").mkdir(parents=True)
    (tmp_path / "f2").mkdir()
    (tmp_path / "f2/f").touch()
    assert "in the guest: f: Is a directory" in vm.cairn("cp", str(tmp_path / "f2") + "/f", f"web1:{tmp_path}/g", ok=False).stderr.replace(f"{tmp_path}/g/", "")
    assert "Not a directory" in vm.cairn("cp", str(tmp_path / "f"), f"web1:{tmp_path}/f2/f", ok=False).stderr


def test_folder_needs_our_agent(vm, tmp_path):  # noqa: F811
    r = vm.cairn("cp", "--agent", "qga", str(tmp_path), "web1:/x", ok=False)
    assert "needs cairn-agent in the guest" in r.stderr


# ---- bad guests ----

FILE = record("T", bytes(8)) + record("F", b"x")
FOLDER = record("D", b"x", 0o755)
BAD_TREES = {
    "name with a slash": FOLDER + record("F", b"a/b"),
    "..": FOLDER + record("F", b".."),
    "folder ..": FOLDER + record("D", b".."),
    ".": FOLDER + record("D", b"."),
    "NUL in a name": FOLDER + record("F", b"a\0b"),
    "no name": FOLDER + record("F"),
    "long name": FOLDER + record("F", b"a" * 256),
    "link outside a folder": record("L", b"a\0/etc"),
    "link without a target": FOLDER + record("L", b"abc"),
    "link with an empty target": FOLDER + record("L", b"ab\0"),
    "link called ..": FOLDER + record("L", b"..\0x"),
    "long target": FOLDER + record("L", b"a\0" + b"b" * 4400),
    "data without a file": FOLDER + record("d", b"x"),
    "empty data": FILE + record("d"),
    "long data": FILE + record("d", bytes(65537)),
    "end within a file": FILE + record("E"),
    "end within a folder": FOLDER + record("E"),
    "two files": FILE + record("c") + record("F", b"y"),
    "up too far": FOLDER + record("u") + record("u"),
    "close without a file": FOLDER + record("c"),
    "up within a file": FOLDER + record("F", b"a") + record("u"),
    "total twice": FILE + record("T", bytes(8)),
    "data after the end": FILE + record("c") + record("E") + record("E"),
    "an unknown record": record("x"),
    "incomplete": FILE + record("d", b"part"),
    "nothing": b"",
    "half a header": FILE + b"c\0\0",
}


def says_tree(liar, stream):  # noqa: F811
    frames = b"".join(frame(6, stream[i:i + 65536]) for i in range(0, len(stream), 65536))
    (liar.tmp / "says").write_bytes(STARTED + frames + frame(11, bytes(8)))
    (liar.tmp / "ends").touch()


def test_malformed_tree_ends_in_a_sentence(liar, tmp_path):  # noqa: F811
    for name, stream in BAD_TREES.items():
        says_tree(liar, stream)
        (tmp_path / f"in {name}").mkdir()
        assert "malformed or incomplete tree" in liar.cairn("cp", "web1:/x", str(tmp_path / f"in {name}"), ok=False).stderr, name
        assert {p.name for p in (tmp_path / f"in {name}").iterdir()} <= {"x"}


def test_malformed_frames(liar, tmp_path):  # noqa: F811
    (liar.tmp / "ends").touch()
    for name in ("another program", "exit before start"):
        (liar.tmp / "says").write_bytes(GARBAGE[name])
        assert "is no cairn-agent" in liar.cairn("cp", "web1:/x", str(tmp_path / "x"), ok=False).stderr


def test_no_path_leaves_the_folder(liar, tmp_path):  # noqa: F811
    """Links that the guest sends, or that are in the folder, are not followed; they are replaced by links only."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    link = record("L", b"a\0" + str(outside).encode())
    says_tree(liar, FOLDER + link + record("D", b"a", 0o777) + record("F", b"file") + record("c"))
    assert "a: Not a directory" in liar.cairn("cp", "web1:/x", str(tmp_path), ok=False).stderr
    says_tree(liar, FOLDER + record("L", b"b\0" + str(outside / "file").encode()) + record("F", b"b") + record("d", b"bad") + record("c"))
    assert "b: Too many levels of symbolic links" in liar.cairn("cp", "web1:/x", str(tmp_path), ok=False).stderr
    says_tree(liar, FOLDER + record("L", b"a\0new target") + record("u") + record("E"))
    liar.cairn("cp", "web1:/x", str(tmp_path))
    assert os.readlink(tmp_path / "x/a") == "new target"
    os.mkfifo(tmp_path / "x/fifo")
    says_tree(liar, FOLDER + record("F", b"fifo") + record("c"))
    assert "fifo: No such device" in liar.cairn("cp", "web1:/x", str(tmp_path), ok=False).stderr
    assert (outside / "file").read_text() == "mine" and list(outside.iterdir()) == [outside / "file"]


def test_link_of_an_earlier_copy_is_not_followed(liar, tmp_path):  # noqa: F811
    """The user names a folder that came from the guest, and the copy has the name of a link there."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    for target in ("mine", "folder"):
        says_tree(liar, FOLDER + record("L", b"y\0" + str(tmp_path / target).encode()) + record("u") + record("E"))
        liar.cairn("cp", "web1:/x", str(tmp_path))
        for stream in (FILE + record("c") + record("E"), FOLDER + record("F", b"f") + record("c") + record("u") + record("E")):
            says_tree(liar, stream)
            r = liar.cairn("cp", "web1:/x/y", str(tmp_path / "x"), ok=False)
            assert "Too many levels" in r.stderr or "Not a directory" in r.stderr
    assert (tmp_path / "mine").read_text() == "mine" and not list((tmp_path / "folder").iterdir())
    # A link that the user names is followed.
    (tmp_path / "here").symlink_to("mine")
    says_tree(liar, FILE + record("c") + record("E"))
    liar.cairn("cp", "web1:/x", str(tmp_path / "here"))
    assert (tmp_path / "mine").read_text() == ""


def test_ctrl_c_ends_a_copy_at_once(liar, tmp_path):  # noqa: F811
    """The guest continues."""
    (liar.tmp / "says").write_bytes(STARTED + frame(6, FILE))
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "cp", "web1:/x", str(tmp_path / "x")], env=liar.env, stderr=subprocess.PIPE) as p:
        until(lambda: (tmp_path / "x").exists())
        p.send_signal(signal.SIGINT)
        assert b"the copy was cancelled" in p.communicate(timeout=50)[1] and p.returncode == -signal.SIGINT


def test_depth_is_limited(liar, tmp_path):  # noqa: F811
    says_tree(liar, FOLDER * 65)
    assert "Too many levels" in liar.cairn("cp", "web1:/x", str(tmp_path / "x"), ok=False).stderr


def test_special_bits_and_foreign_permissions_are_dropped(liar, tmp_path):  # noqa: F811
    says_tree(liar, record("F", b"x", 0o7777) + record("c") + record("E"))
    old = os.umask(0o027)
    liar.cairn("cp", "web1:/x", str(tmp_path / "x"))
    os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o750
