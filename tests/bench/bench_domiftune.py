"""domiftune: a limited interface against its limit, where there are always more frames: bytes and frames, from the
guest and to it. Each within 5 % of the limit in both directions."""

import contextlib
import json
import os
import pathlib
import tempfile
import threading
import time

import guestlib
from benchlib import Unfit, need_kvm
from conftest import Console
from netlib import Lan, frame
from test_net import LanDaemon

BYTES = 1000  # of a frame
PAYLOAD = BYTES - 14
SECONDS = 5.0
KIB, PACKETS = 1000, 1000  # a second
FRAMES_OF_KIB = int(SECONDS * KIB * 1024 / BYTES)
FRAMES_OF_PACKETS = int(SECONDS * PACKETS)
# The limit; the guest's command before the measurement, which uses up what may pass at once; the measured one.
FROM_GUEST = {
    "1000 KiB a second from the guest": (("--outbound", str(KIB)), f"net send {PAYLOAD} 1 300", f"net send {PAYLOAD} 1 {FRAMES_OF_KIB}"),
    "1000 frames a second from the guest": (("--outbound-packets", str(PACKETS)), f"net send {PAYLOAD} 1 300", f"net send {PAYLOAD} 1 {FRAMES_OF_PACKETS}"),
}
TO_GUEST = {
    "1000 KiB a second to the guest": (("--inbound", str(KIB)), "net count 300", f"net count {FRAMES_OF_KIB}"),
    "1000 frames a second to the guest": (("--inbound-packets", str(PACKETS)), "net count 300", f"net count {FRAMES_OF_PACKETS}"),
}
OFF = ("--inbound", "0", "--outbound", "0", "--inbound-packets", "0", "--outbound-packets", "0")
WITHIN = 0.95


@contextlib.contextmanager
def flood(lan):
    """Send frames to the bridge all the time, more than the limits let pass, also on a busy host."""
    s, over = lan.socket(), threading.Event()

    def send():
        while not over.wait(0.005):
            for _ in range(40):
                with contextlib.suppress(OSError):  # a queue is full
                    s.send(frame(PAYLOAD, 1))
    sender = threading.Thread(target=send)
    sender.start()
    yield
    over.set()
    sender.join()


def seconds_of(daemon, console, limit, before, command):
    daemon.cairn("domiftune", "vm", "net0", *OFF)
    daemon.cairn("domiftune", "vm", "net0", *limit)
    console.run(before)
    begin = time.monotonic()
    console.run(command)
    return time.monotonic() - begin


def run(bench):
    need_kvm()
    if os.geteuid():
        raise Unfit("needs root, for a network namespace")
    with contextlib.ExitStack() as stack:
        lan = Lan()
        stack.callback(lan.close)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-")))
        daemon = LanDaemon(folder, lan)
        stack.callback(daemon.close)
        (folder / "vm.json").write_text(json.dumps(guestlib.definition("vm", interfaces=[{"type": "bridge", "source": "br0"}])))
        daemon.cairn("define", str(folder / "vm.json"))
        daemon.cairn("start", "vm")
        console = stack.enter_context(contextlib.closing(Console(daemon, "vm")))
        while console.line() != "interp":
            pass
        console.run("net open 0")
        took = {case: seconds_of(daemon, console, *row) for case, row in FROM_GUEST.items()}
        with flood(lan):
            took |= {case: seconds_of(daemon, console, *row) for case, row in TO_GUEST.items()}
        for case, seconds in took.items():
            want = FRAMES_OF_KIB * BYTES / 1024 / KIB if "KiB" in case else FRAMES_OF_PACKETS / PACKETS
            bench.pairs(case, "s", [(seconds, want)], "the limit", WITHIN)
            bench.pairs(f"{case}, not faster", "s", [(seconds, want)], "the limit", WITHIN, rate=True)
