"""cairn top: one sample without a terminal, and the table on a terminal."""

import csv
import fcntl
import io
import json
import os
import pty
import signal
import struct
import termios

import pytest

from terminallib import read_until, terminal


def top(fake, *args):
    """Return what it shows. Ask again while a process that stands still gives no figures of its own."""
    while True:
        vms = json.loads(fake.cairn("top", "--every", "0.2", "--format", "json", *args).stdout)
        if all(v["cpu-percent"] is not None for v in vms if v["id"] != -1):
            return vms


def top_in_order(fake, names, *args):
    """Return the VMs when they come in this order. Ask again: a VM whose process stood still between two samples shows
    another rate."""
    while True:
        vms = top(fake, *args)
        if [v["name"] for v in vms] == names:
            return vms


def test_top_once(fake):
    for name, words in (("idle", None), ("busy", "works=2"), ("Works", "works=1"), ("off", None)):
        fake.define(name, cmdline=words)
    fake.cairn("start", "idle", "busy", "Works")
    vms = top_in_order(fake, ["busy", "Works", "idle"])
    assert all(v["state"] == "running" for v in vms)
    busy = vms[0]
    for key, much in (("disk-read-rate", 2), ("disk-write-rate", 4), ("net-rx-rate", 6), ("net-tx-rate", 8)):
        # All rates refer to the same interval, whatever its length.
        assert busy[key] == pytest.approx(busy["cpu-percent"] / 50 * 1e9 * much, rel=0.01), key
        assert vms[2][key] == 0
    assert vms[2]["cpu-percent"] == 0 and busy["memory"] == 32 << 20
    assert busy["resident-memory"] > 4096 and busy["resident-memory"] == pytest.approx(fake.info("busy")["resident-memory"], rel=0.5)
    assert [v["name"] for v in top(fake, "--sort", "name")] == ["busy", "idle", "Works"]
    top_in_order(fake, ["busy", "Works", "idle"], "--sort", "net")
    assert [v["name"] for v in top(fake, "--sort", "memory")] == ["busy", "idle", "Works"]
    # The named VMs, in any state; a VM that is off has no rates.
    vms = top(fake, "off", "idle", "--sort", "disk")
    assert [(v["name"], v["id"], v["cpu-percent"]) for v in vms] == [("idle", fake.info("idle")["id"], 0.0), ("off", -1, None)]
    rows = []
    while [(r["name"], r["cpu-percent"]) for r in rows[2:]] != [("idle", "0.0")]:  # as top_in_order()
        rows = list(csv.DictReader(io.StringIO(fake.cairn("top", "--every", "0.2", "--format", "csv").stdout)))
        assert {r["name"] for r in rows} == {"busy", "Works", "idle"}
    lines = [""] * 6
    while lines[4].split()[1:4] != ["idle", "running", "0.0"]:
        lines = fake.cairn("top", "--once", "--every", "0.2").stdout.splitlines()  # without a terminal: once
        assert len(lines) == 6
    assert lines[0].split() == ["Id", "Name", "State", "CPU", "%", "Memory", "Resident", "Read/s", "Written/s", "Received/s", "Sent/s"]
    assert lines[4].split()[4:6] == ["32.0", "MiB"]


def test_top_refuses_impossible_options(fake):
    fake.cairn("top", "nope", ok=3)
    for args in (["--every", "0"], ["--every", "x"], ["--sort", "id"]):
        assert fake.cairn("top", *args, ok=2).stderr.startswith("error: ")
    assert top(fake) == []


def lines_of(got):
    """Return the lines of the last complete screen."""
    last = got.split(b"\x1b[J")[-2].split(b"\x1b[H")[-1]
    return [x.replace(b"\x1b[K", b"").decode() for x in last.split(b"\r\n")]


def test_top_redraws_on_terminal(fake):
    for name, words in (("b-idle", None), ("a-busy", "works=1"), ("long" * 20, None)):
        fake.define(name, cmdline=words)
    fake.cairn("start", "b-idle", "a-busy")
    pid, fd = terminal(fake, "top", "--every", "0.1", "--sort", "cpu")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    unused = pty.openpty()
    before = termios.tcgetattr(unused[0])  # cairn may have changed its own terminal by now
    for end in unused:
        os.close(end)
    got = read_until(fd, b"\x1b[J")
    assert got.startswith(b"\x1b[?1049h") and b"c: cpu" in got

    def see(ok):
        """Wait until the screen is as expected."""
        nonlocal got
        while True:
            got = got[-20000:] + read_until(fd, b"\x1b[J")
            lines = lines_of(got)
            if ok(lines):
                return lines

    names = lambda lines: [x.split()[1] for x in lines[4:] if x.split()]  # noqa: E731
    # Now there are rates, of a busy VM.
    see(lambda lines: names(lines) == ["a-busy", "b-idle"] and lines[4].split()[3] not in ("-", "0.0"))
    os.write(fd, b"m")
    see(lambda lines: ", by memory" in lines[0])
    os.write(fd, b"A")
    see(lambda lines: ", by name" in lines[0])
    # VMs appear and disappear.
    fake.cairn("start", "long" * 20)
    see(lambda lines: "long" * 20 in names(lines))
    fake.cairn("destroy", "b-idle")
    see(lambda lines: names(lines) == ["a-busy", "long" * 20])
    # No line wraps, and rows below the screen's end are left out.
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 40, 0, 0))
    see(lambda lines: len(lines) == 5 and max(map(len, lines)) == 40)
    os.write(fd, b"q")
    read_until(fd, b"\x1b[?25h\x1b[?1049l")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert termios.tcgetattr(fd) == before
    os.close(fd)


def test_top_prints_one_sample_on_a_dumb_terminal(fake):
    pid, fd = terminal(fake, "top", "--every", "0.1", term="dumb")
    got = read_until(fd, b"CPU")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and b"\x1b" not in got
    os.close(fd)


@pytest.mark.parametrize("how", ["signal", "daemon"])
def test_top_restores_terminal(fake, how):
    pid, fd = terminal(fake, "top", "--every", "0.1")
    read_until(fd, b"\x1b[J")
    if how == "signal":
        os.write(fd, b"\x03")
    else:
        fake.stop(signal.SIGKILL)
    got = read_until(fd, b"\x1b[?1049l")
    if how == "daemon" and b"read the usage of domains" not in got:
        read_until(fd, b"read the usage of domains")  # where the user sees it
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (status == 0) == (how == "signal")
    os.close(fd)
