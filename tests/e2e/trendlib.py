"""Writes a file of trends (docs/state.md) with hours that a test makes up."""

import pathlib
import struct
import time

from statelib import crc32c

HOUR = 3600
STEPS = [(1, 3600), (60, 7 * 24 * 60), (HOUR, 2 * 366 * 24)]
SERIES = ["cpu", "memory", "used", "balloon", "rd-bytes", "wr-bytes", "rd-reqs", "wr-reqs", "rd-latency", "wr-latency", "io-errors", "rx-bytes",
          "tx-bytes", "rx-packets", "tx-packets"]


def summed(data):
    return data + struct.pack("<I", crc32c(data))


def row(seq, end, values):
    """values: of a series, its average and maximum; absent: not known."""
    pairs = [values.get(s, (float("nan"), float("nan"))) for s in SERIES]
    return summed(struct.pack("<4I", seq, end, HOUR, HOUR) + b"".join(struct.pack("<f", p[k]) for k in (0, 1) for p in pairs))


def write(path, hours, ahead=0):
    """hours: the values of each whole hour, the newest last; None: a gap. ahead: seconds by which the daemon's clock is
    ahead."""
    end = (int(time.time()) + ahead) // HOUR * HOUR
    header = b"CAIRNTRD" + struct.pack("<2I", 1, len(SERIES)) + b"".join(struct.pack("<2I", *s) for s in STEPS)
    header += b"".join(s.encode().ljust(16, b"\0") for s in SERIES)
    rows = [row(n + 1, end - k * HOUR, values) for n, (k, values) in enumerate(
        (len(hours) - 1 - i, v) for i, v in enumerate(hours) if v is not None)]
    heads = summed(struct.pack("<Q3I", 0, 1, 1, len(rows) + 1))
    data = summed(header.ljust(1020, b"\0")).ljust(2048, b"\0") + heads
    data = data.ljust(4096, b"\0").ljust(4096 + 3600 * 80 + 7 * 24 * 60 * 140, b"\0") + b"".join(rows)
    pathlib.Path(path).write_bytes(data)


def idle(**more):
    """An hour in which a VM did nothing."""
    zero = {s: (0, 0) for s in SERIES if s not in ("used", "balloon", "rd-latency", "wr-latency")}
    return {**zero, "cpu": (0.4, 3), "memory": (200 << 20, 200 << 20), **{k.replace("_", "-"): v for k, v in more.items()}}


def busy(**more):
    return idle(**{"cpu": (90, 180), "wr_reqs": (40, 90), "tx_packets": (70, 500), **more})
