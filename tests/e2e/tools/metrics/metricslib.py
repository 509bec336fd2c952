"""Reading OpenMetrics text, strictly as far as the format's rules that a client relies on."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import guestlib
from conftest import BUILD, FAKE_VM, Daemon

NOBODY = 65534
SUFFIXES = {"counter": ["_total"], "gauge": [""], "info": ["_info"], "stateset": [""]}


def parse(text):
    """Return {(metric, frozenset of labels): value}. Families must be contiguous and declared, and samples unique."""
    assert text.endswith("# EOF\n")
    samples, seen, family, kind = {}, set(), None, None
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in seen, family
            seen.add(family)
        elif line.startswith("# HELP "):
            assert line.split(" ")[2] == family
        else:
            m = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[n"\\])*",?)*)\})? ([0-9.]+)', line)
            assert m and m[1] in [family + s for s in SUFFIXES[kind]], line
            labels = frozenset(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', m[2] or ""))
            assert (m[1], labels) not in samples, line
            samples[m[1], labels] = float(m[3])
    return samples


def promtool(text):
    """Let promtool judge the names. It reads the older format, in which a counter's family has the suffix, and knows no
    info and no stateset."""
    lines, kinds = [], {}
    for line in text.splitlines()[:-1]:
        word, _, rest = line[2:].partition(" ")
        if line.startswith("# "):
            family, _, rest = rest.partition(" ")
            if word == "TYPE":
                kinds[family] = rest
                rest = rest if rest in ("gauge", "counter") else "gauge"
            line = f"# {word} {family}{SUFFIXES[kinds[family]][0]} {rest}"
        lines.append(line)
    return subprocess.run(["promtool", "check", "metrics"], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60)


def value(samples, metric, **labels):
    return samples[metric, frozenset(labels.items())]


@contextlib.contextmanager
def open_daemon(**keys):
    """A daemon in a folder that every user may enter, with a copy of cairn-metrics there."""
    tmp = Path(tempfile.mkdtemp(prefix="metrics-"))
    os.chmod(tmp, 0o755)
    shutil.copy(os.path.join(BUILD, "cairn-metrics"), tmp)
    (tmp / "m").mkdir()
    os.chown(tmp / "m", NOBODY, NOBODY)
    try:
        with contextlib.closing(Daemon(tmp, FAKE_VM, **keys)) as d:
            yield d
    finally:
        shutil.rmtree(tmp)


class Server:
    """cairn-metrics as the user nobody. It tells when it is ready by sd_notify's message, which this waits for."""

    def __init__(self, daemon, *args, uid=NOBODY, stderr=subprocess.PIPE):
        import socket
        path = daemon.tmp / "m" / "notify"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(path))
        os.chmod(path, 0o666)
        self.manager.settimeout(30 * guestlib.SLOW)
        self.proc = subprocess.Popen([daemon.tmp / "cairn-metrics", *args], user=uid, group=uid, extra_groups=[], text=True,
                                     env={**daemon.env, "NOTIFY_SOCKET": str(path)}, stderr=stderr)

    def ready(self):
        assert self.manager.recv(99) == b"READY=1"
        return self

    def close(self):
        self.proc.kill()
        self.proc.communicate()
        self.manager.close()
