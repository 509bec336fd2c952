"""blk-guest: a guest's disk requests of 4 KiB at random, compared with QEMU's virtio-blk with an iothread and io_uring.

The guest is our own and polls its ring. Files are full and raw or qcow2, on a tmpfs (QEMU: page cache, because a tmpfs of
Linux 6.1 has no O_DIRECT), on disk (both: O_DIRECT) and on disk with the cache mode writeback (both: page cache)."""

import contextlib
import json
import os
import subprocess

import guestlib
from benchlib import QEMU, Program, need_kvm, need_qemu
from imgbench import Box

DISK_MIB = 256
DEPTHS = {1: 2000, 32: 20000}
# By place and cache mode; at each depth.
GOALS = {("shm", "none"): {1: 1.0, 32: 2.5}, ("disk", "none"): {1: 1.0, 32: 1.3}, ("disk", "writeback"): {1: 1.0, 32: 1.3}}


def image(box, name, format):
    path = box.path(f"{name}.{format}")
    subprocess.run(["qemu-img", "create", "-q", "-f", format, path, f"{DISK_MIB}M"], check=True)
    subprocess.run(["qemu-io", "-f", format, "-c", f"write -q -P 165 0 {DISK_MIB}M", path], check=True)
    return path


def cairn(box, format, cache):
    path, more = box.path("vm.json"), {} if cache == "none" else {"cache": cache}
    with open(path, "w") as f:
        json.dump(guestlib.definition(disks=[{"path": image(box, "cairn", format), "format": format, **more}]), f)
    return [guestlib.CAIRN, "run", path]


def qemu(box, format, cache):
    cpu = "host,-arch-capabilities" if guestlib.host_kind() == "pvm" else "host"
    direct = "on" if (box.place, cache) == ("disk", "none") else "off"
    return [QEMU, "-M", "pc", "-accel", "kvm", "-cpu", cpu, "-m", "64", "-nodefaults", "-display", "none", "-serial", "stdio",
            "-object", "iothread,id=t",
            "-blockdev", f"driver=file,filename={image(box, 'qemu', format)},node-name=f,aio=io_uring,cache.direct={direct}",
            "-blockdev", f"driver={format},file=f,node-name=d", "-device", "virtio-blk-pci,drive=d,iothread=t,disable-legacy=on",
            "-kernel", guestlib.bare("interp")]


def command(guest, text):
    guest.output = b""
    os.write(guest.stdin, text.encode() + b"\n")
    guest.until(b"ok")
    return guest.output.decode()


def iops(guest, kind, depth):
    count = DEPTHS[depth]
    said = command(guest, f"bench {kind} {depth} {count} 4096 {DISK_MIB << 11}")
    return count * 1e9 / int(said.split("ns=")[1].split()[0], 0)


def run(bench):
    need_kvm()
    need_qemu()
    for place, cache in GOALS:
        cached, direct = "" if cache == "none" else f", {cache}", (place, cache) == ("disk", "none")
        for format in ("raw", "qcow2"):
            with contextlib.ExitStack() as stack:
                box = stack.enter_context(Box(bench, place, 3 * DISK_MIB))
                image(box, "limit", "raw")
                guests = [stack.enter_context(Program(argv(box, format, cache))) for argv in (cairn, qemu)]
                for g in guests:
                    g.until(b"interp")
                    command(g, "open 0")
                for kind in ("randread", "randwrite"):
                    for depth, goal in GOALS[place, cache].items():
                        ours, peer = (lambda g=g: iops(g, kind, depth) for g in guests)
                        ours(), peer()
                        bench.compare(f"{kind}, depth {depth}, {format} on {place}{cached}", "IOPS", ours, peer, "QEMU pc, iothread", goal, rate=True, rounds=5,
                                      limit=lambda: box.limit_iops("limit.raw", kind == "randwrite", DEPTHS[depth], depth, direct), limit_name=box.limit_name(direct))
