"""cairn-agent itself, on a socket pair in place of vsock: hostile hosts, and what `cairn` never sends."""

import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess

import pytest

import guestlib
from conftest import BUILD, until

START, STARTED, FAILED, STDIN, STDOUT, STDERR, TAKEN, SIGNAL, SIZE, EXIT = range(2, 12)
MOUNT = 14
WINDOW = 128 * 1024
TERMINAL, INPUT = 1, 2


def frame(kind, data=b""):
    return struct.pack("<II", kind, len(data)) + data


def start(*args, flags=INPUT, env=(), folder="", nargs=None):
    words = b"".join(w.encode() + b"\0" for w in (folder, *args, *env))
    return frame(START, struct.pack("<IHHHH", flags, 24, 80, len(args) if nargs is None else nargs, len(env)) + words)


class Agent:
    def __init__(self, *command):
        """command: runs the agent; its last argument will be the fd."""
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(50 * guestlib.SLOW)
        command = command or (os.path.join(BUILD, "cairn-agent"), "--fd")
        self.p = subprocess.Popen([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], process_group=0)
        theirs.close()
        self.f = self.sock.makefile("rb")
        assert self.frame() == (1, b"cairn-agent 1\n")

    def frame(self):
        """Return the next frame; None: the agent has closed the connection."""
        with contextlib.suppress(ConnectionResetError):
            header = self.f.read(8)
            if len(header) == 8:
                kind, n = struct.unpack("<II", header)
                return kind, self.f.read(n)
        return None

    def until(self, kind):
        while (f := self.frame()) and f[0] != kind:
            pass
        return f

    def send(self, data):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def close(self):
        self.f.close()
        self.sock.close()
        assert self.p.wait(50 * guestlib.SLOW) == 0


@pytest.fixture
def agent():
    a = Agent()
    yield a
    a.close()


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def begun(agent, *args, **kwargs):
    agent.send(start(*args, **kwargs))
    return struct.unpack("<I", agent.until(STARTED)[1])[0]


BAD = {
    "unknown type": frame(12, b"x"),
    "a frame of the guest": frame(STDOUT, b"x"),
    "reserved bytes": struct.pack("<II", START | 256, 20) + bytes(20),
    "too long": struct.pack("<II", START, 65537),
    "4 GiB": struct.pack("<II", START, 0xffffffff),
    "input before start": frame(STDIN, b"x"),
    "no arguments": start(nargs=0),
    "more arguments than words": start("true", nargs=2),
    "65535 arguments": start("true", nargs=65535),
    "fewer arguments than words": start("true", "x", nargs=1),
    "no NUL at the end": frame(START, struct.pack("<IHHHH", 0, 0, 0, 1, 0) + b"\0true"),
    "variable without a name": start("true", env=["=x"]),
    "variable without a value": start("true", env=["x"]),
    "unknown flag": start("true", flags=32),
    "no user": start("true", flags=16),
    "short": frame(START, bytes(14)),
    "mount without a folder": frame(MOUNT, b"tag\0x"),
    "mount on a relative folder": frame(MOUNT, b"tag\0x\0"),
    "mount with more": frame(MOUNT, b"tag\0/x\0y\0"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_malformed_frame_ends_the_connection(agent, data):
    agent.send(data)
    assert agent.frame() is None


def test_start_fails_after_a_mount_that_fails(agent, tmp_path):
    """The agent runs on the host, which has no share."""
    agent.send(frame(MOUNT, b"tag\0" + bytes(tmp_path / "a" / "b") + b"\0") + start("touch", str(tmp_path / "ran")))
    error, step = struct.unpack("<II", agent.until(FAILED)[1])
    assert error and step == 6 and (tmp_path / "a" / "b").is_dir()
    agent.send(start("true"))
    agent.sock.shutdown(socket.SHUT_WR)
    assert agent.frame() is None and not (tmp_path / "ran").exists()


def test_second_start_ends_the_program(agent):
    pid = begun(agent, "sleep", "1000")
    agent.send(start("true"))
    assert agent.until(EXIT) is None
    until(lambda: not alive(pid))


def test_input_beyond_the_window_ends_the_program(agent):
    pid = begun(agent, "sleep", "1000")
    full = frame(STDIN, bytes(65536)) * 2
    agent.send(full)  # the pipe takes a part
    taken = struct.unpack("<I", agent.until(TAKEN)[1])[0]
    assert alive(pid) and 0 < taken < WINDOW
    agent.send(full)
    assert agent.until(EXIT) is None
    until(lambda: not alive(pid))


def test_signal_overtakes_input(agent):
    begun(agent, "sh", "-c", "exec sleep 1000")
    agent.send(frame(STDIN, bytes(65536)) * 2 + frame(SIGNAL, struct.pack("<I", 15)))
    assert agent.until(EXIT)[1] == struct.pack("<II", 0, 15)


def test_strange_signals_do_nothing(agent):
    pid = begun(agent, "sleep", "1000")
    for sig in (0, 65, 0x7fffffff, 0xffffffff):
        agent.send(frame(SIGNAL, struct.pack("<I", sig)))
    agent.send(frame(SIZE, b"\xff" * 4))
    agent.send(frame(STDIN, b"x"))
    assert agent.frame()[0] == TAKEN and alive(pid)


def test_frames_after_the_end_are_ignored(agent):
    begun(agent, "true")
    assert agent.until(EXIT)
    agent.send(frame(STDIN, b"x") + frame(SIGNAL, bytes(4)) + frame(STDIN))


def test_frames_in_pieces(agent):
    for byte in start("cat") + frame(STDIN, b"data") + frame(STDIN):
        agent.send(bytes([byte]))
    assert agent.until(STDOUT) == (STDOUT, b"data")
    assert agent.until(EXIT)[1] == bytes(8)


def test_input_without_a_reader_is_taken(agent):
    """A program that has closed its input, or has ended, delays nobody."""
    begun(agent, "sh", "-c", "exec <&-; sleep 1000")
    taken = 0
    for _ in range(10):
        agent.send(frame(STDIN, bytes(65536)))
        while taken % 65536 or not taken:
            taken += struct.unpack("<I", agent.until(TAKEN)[1])[0]
        taken = 0


def test_host_that_reads_nothing_stops_the_program(agent):
    pid = begun(agent, "yes")
    until(lambda: "S" in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0])
    assert agent.frame()[0] == STDOUT


def test_environment_replaces_the_agents(agent):
    begun(agent, "env", env=["PATH=/x:/usr/bin:/bin", "HOME=/h"])
    _, out = agent.until(STDOUT)
    lines = out.decode().splitlines()
    assert lines.count("PATH=/x:/usr/bin:/bin") == 1 and "HOME=/h" in lines and sum(line.startswith("PATH=") for line in lines) == 1


def test_program_gets_no_fds_and_no_ignored_signals():
    agent = Agent("sh", "-c", f'trap "" HUP 40; exec "{BUILD}/cairn-agent" --fd "$0"')
    begun(agent, "sh", "-c", "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status", flags=0)
    out = b""
    while (f := agent.frame()) and f[0] != EXIT:
        out += f[1]
    lines = out.decode().split()
    assert lines[:4] == ["0", "1", "2", "3"]  # 3: ls's own
    assert lines[4] == "SigBlk:" and int(lines[5], 16) == 0 and int(lines[7], 16) == 0
    agent.close()


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_failed_start_leaves_no_zombie(agent):
    agent.send(start("/missing"))
    assert agent.until(FAILED)[1] == struct.pack("<II", 2, 4)
    with open(f"/proc/{agent.p.pid}/task/{agent.p.pid}/children") as f:
        assert f.read() == ""


def test_left_over_child_does_not_hold_unread_output(agent, tmp_path):
    """The agent sees the output and the end of the program at the same time."""
    go = tmp_path / "go"
    pid = begun(agent, "sh", "-c", f"until [ -e {go} ]; do :; done; sleep 1000 & echo output")
    os.kill(agent.p.pid, signal.SIGSTOP)
    until(lambda: state_of(agent.p.pid) == "T")
    go.touch()
    until(lambda: state_of(pid) == "Z")
    os.kill(agent.p.pid, signal.SIGCONT)
    assert agent.until(STDOUT)[1] == b"output\n"
    assert agent.until(EXIT)[1] == bytes(8)


def test_left_over_child_does_not_hold_a_terminal(agent):
    """The child survives the terminal's hang-up. All output comes first, more than the terminal keeps."""
    begun(agent, "sh", "-c", "trap '' HUP; sleep 1000 & head -c 300000 /dev/zero | tr '\\0' x", flags=TERMINAL)
    out = b""
    while (f := agent.frame()) and f[0] == STDOUT:
        out += f[1]
    assert f == (EXIT, bytes(8)) and out == b"x" * 300000


# Run the agent as process 1 with the root folder $0, which has no /dev and no /proc; then mount $2 over it.
OTHER_ROOT = """set -e
mount -t tmpfs none "$0"
mkdir "$0"/bin "$0"/lib "$0"/lib64 "$0"/usr
for d in bin lib lib64 usr; do [ ! -d /$d ] || mount --rbind /$d "$0"/$d; done
cp "$1" "$0"/cairn-agent
printf '#!/bin/sh\nread x </go\nread x </go\n' >"$0"/init
chmod 755 "$0"/init
mkfifo "$0"/go
unshare -pf --kill-child chroot "$0" /cairn-agent --fd "$3" &
exec 9>"$0"/go
echo >&9
[ -z "$2" ] || mount --rbind "$2" "$0"
wait
"""


@contextlib.contextmanager
def agent_as_init(root, later):
    root.mkdir()
    enter = ["unshare", "-m"] if not os.geteuid() else ["unshare", "-Urm"]
    if subprocess.run([*enter, "mount", "-t", "tmpfs", "none", root], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs mount namespaces")
    a = Agent(*enter, "sh", "-c", OTHER_ROOT, root, os.path.join(BUILD, "cairn-agent"), later)
    yield a
    os.killpg(a.p.pid, signal.SIGKILL)  # also unshare, with which process 1 ends, whatever init waits for
    a.f.close()
    a.sock.close()
    a.p.wait(50)


def test_agent_follows_init_to_another_root(tmp_path):
    """As process 1, in a root folder above which another one is mounted later."""
    root = tmp_path / "root"
    with agent_as_init(root, "/") as a:
        def mounts():
            with open(f"/proc/{a.p.pid}/mountinfo") as f:
                return [line for line in f if line.split()[4] == str(root)]
        until(lambda: len(mounts()) == 2)
        a.send(start("sh", "-c", "cat; pwd; test -e /proc/self", flags=0))
        assert a.until(STDOUT) == (STDOUT, b"/\n")
        assert a.until(EXIT)[1] == bytes(8)


def test_program_without_input_before_init_mounts_dev(tmp_path):
    with agent_as_init(tmp_path / "root", "") as a:
        a.send(start("sh", "-c", "cat; pwd; test ! -e /dev/null", flags=0))
        assert a.until(STDOUT) == (STDOUT, b"/\n")
        assert a.until(EXIT)[1] == bytes(8)


def test_random_frames_do_no_harm():
    """Only programs that do nothing are started."""
    rnd = random.Random(1)
    for _ in range(60):
        a = Agent()
        data = b""
        for _ in range(rnd.randrange(12)):
            f = bytearray(rnd.choice([start("true"), start("cat"), start("cat", flags=TERMINAL | INPUT), frame(STDIN, bytes(rnd.randrange(9000))),
                                      frame(STDIN), frame(SIGNAL, struct.pack("<I", rnd.randrange(70))), frame(SIZE, bytes(4))]))
            if rnd.random() < 0.2:
                f[rnd.randrange(min(8, len(f)))] ^= 1 << rnd.randrange(8)
            data += f
        a.send(data)
        a.close()


def test_usage():
    for args in (["--fd"], ["--fd", "x"], ["--port", "-1"], ["--port", "4294967295"], ["x"]):
        r = subprocess.run([os.path.join(BUILD, "cairn-agent"), *args], stderr=subprocess.PIPE, text=True)
        assert r.returncode == 1 and "usage" in r.stderr


def test_size():
    """Some 60 KB with musl, as docs/agent.md says."""
    if not shutil.which("musl-gcc"):
        pytest.skip("needs musl-gcc (musl-tools)")
    assert os.path.getsize(os.path.join(BUILD, "cairn-agent")) < 64 * 1024
