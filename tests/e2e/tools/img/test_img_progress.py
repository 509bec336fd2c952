"""Long verbs of cairn-img: a progress bar on a terminal, JSON lines for programs, and Ctrl-C in the middle."""
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from test_img import IMG, MIB, TIMEOUT, box, pattern, said_on_terminal  # noqa: F401
from test_img_verbs import sha

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

F_SETPIPE_SZ = 1031
# Verb, its last event, whether Ctrl-C leaves the image as before.
VERBS = {
    "convert": (["convert", "-f", "raw", "-O", "qcow2", "src", "new"], "done", True),
    "compressed": (["convert", "-c", "-f", "raw", "-O", "qcow2", "src", "new"], "done", True),
    "commit": (["commit", "-f", "qcow2", "top"], "done", True),
    "rebase": (["rebase", "-b", "", "top"], "done", True),
    "compare": (["compare", "top", "copy"], None, True),
    "trim": (["trim", "--zeros", "top"], "result", True),
    "resize": (["resize", "--preallocation=full", "top", "+16M"], "done", True),
    "snapshot": (["snapshot", "-c", "now", "top"], "done", False),
}


@pytest.fixture
def images(box):  # noqa: F811
    """A raw disk; an image with a backing file and every cluster allocated; a copy of its content."""
    box.qemu("create", "-q", "-f", "raw", "src", "16M")
    pattern(box, "src", 1, fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "base", "16M")
    box.io("base", "write -P 1 0 16M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    box.io("top", "write -P 2 0 8M")
    box.qemu("convert", "-O", "qcow2", "top", "copy")
    return box


@pytest.mark.parametrize("verb", VERBS)
def test_progress_as_json_lines(images, verb):
    args, last, _ = VERBS[verb]
    out = images.img(args[0], "--format", "json", *args[1:]).stdout.splitlines()
    events = [json.loads(line) for line in out]
    assert events[0]["event"] == "progress" and 0 <= events[0]["done"] <= events[0]["total"]
    if last:
        assert events[-1]["event"] == last


@pytest.mark.parametrize("args", [["check", "-p"], ["check", "-p", "-r", "leaks"], ["check", "-p", "-r", "all"]])
def test_check_shows_progress_bar(images, args):
    said = said_on_terminal(images, [*args, "top"])
    assert b"(0.00/100%)" in said and said.index(b"(100.00/100%)") < said.index(b"No errors were found")
    assert "(100.00/100%)" in images.img(*args, "top").stdout
    assert "%)" not in images.img(*args, "-q", "top").stdout.replace("% compressed", "")


@pytest.mark.parametrize("verb", VERBS)
def test_progress_bar_on_terminal(images, verb):
    args = VERBS[verb][0]
    assert b"(100.00/100%)" in said_on_terminal(images, [args[0], "-p", *args[1:]])


def blocked_in_write(pid):
    with open(f"/proc/{pid}/syscall") as f:
        return f.read().split()[:2] == ["1", "0x1"]


def interrupted_at_first_line(images, args):
    """Nobody reads its output, so it blocks at its first progress report; then the signal comes."""
    r, w = os.pipe()
    fcntl.fcntl(w, F_SETPIPE_SZ, 4096)
    os.write(w, b"\n" * 4096)
    p = subprocess.Popen([IMG, args[0], "--format", "json", *args[1:]], cwd=images.path, stdout=w,
                         stderr=subprocess.PIPE, text=True)
    os.close(w)
    deadline = time.monotonic() + TIMEOUT
    while not blocked_in_write(p.pid):
        assert p.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    p.send_signal(signal.SIGINT)
    while os.read(r, 65536):
        pass
    os.close(r)
    _, err = p.communicate(timeout=TIMEOUT)
    return p.returncode, err


@pytest.mark.parametrize("verb", [v for v, (_, _, cleans) in VERBS.items() if cleans])
def test_ctrl_c_leaves_consistent_images(images, verb):
    args, _, _ = VERBS[verb]
    names, before = sorted(os.listdir(images.path)), sha(images, "top")
    assert (images.path / "top").stat().st_size < 16 * MIB
    got, err = interrupted_at_first_line(images, args)
    assert got == -signal.SIGINT and "interrupted" in err
    assert sorted(os.listdir(images.path)) == names
    assert sha(images, "top") == before
    for name in ("top", "base"):
        images.qemu("check", "-q", name)


def test_interrupted_snapshot_is_undone(images):
    """The next verb that opens the image for writing undoes what was done."""
    before = sha(images, "top")
    got, err = interrupted_at_first_line(images, VERBS["snapshot"][0])
    assert (got, err) == (-signal.SIGINT, "cairn-img: interrupted\n")
    assert "now" not in images.qemu("snapshot", "-l", "top").stdout
    images.img("snapshot", "-c", "other", "top")
    images.qemu("check", "-q", "top")
    assert sha(images, "top") == before


@pytest.mark.parametrize("options", [[], ["-c"]], ids=["plain", "compressed"])
def test_signal_asks_for_a_line_of_progress(images, options):
    """SIGUSR1, as for qemu-img and dd."""
    p = subprocess.Popen([IMG, "convert", *options, "-r", "4M", "-f", "raw", "-O", "qcow2", "src", "new"], cwd=images.path,
                         stderr=subprocess.PIPE, text=True)
    while not any(name.startswith("new") for name in os.listdir(images.path)):
        time.sleep(0.002)
    p.send_signal(signal.SIGUSR1)
    line = p.stderr.readline()
    assert re.fullmatch(r"    \(\d+\.\d0/100%\)\n", line), line
    assert p.communicate(timeout=TIMEOUT)[1] == "" and p.returncode == 0
    images.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "new")
