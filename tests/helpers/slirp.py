#!/usr/bin/python3
"""Stands in for cairn-slirp where a bare-metal guest without TCP is on the other side: what comes over a forward goes to
the guest as one frame to all, and the guest's frames go to whoever is connected. The same command line."""

import argparse
import json
import os
import select
import signal
import socket
import sys

HEAD = bytes(12) + b"\xff" * 6 + bytes.fromhex("020000000099") + (0x88b5).to_bytes(2, "big")

signal.signal(signal.SIGTERM, signal.SIG_DFL)
p = argparse.ArgumentParser()
p.add_argument("--frames", type=int)
p.add_argument("--control", type=int)
p.add_argument("--network")
p.add_argument("--hostname")
p.add_argument("--mtu", type=int)
p.add_argument("--restrict", action="store_true")
p.add_argument("--host-loopback", action="store_true")
p.add_argument("--forward", action="append", default=[])
a = p.parse_args()
print("slirp:", *sys.argv[1:], f"uid={os.getuid()}", file=sys.stderr, flush=True)
frames, control = socket.socket(fileno=a.frames), socket.socket(fileno=a.control)
forwards = [socket.socket(fileno=int(f.split(":")[1])) for f in a.forward]
peers = []


def tell(n):
    try:
        control.send(json.dumps({"forward": n}).encode())
    except OSError:
        pass


def udp(s):
    return s.type == socket.SOCK_DGRAM


while True:
    streams = [s for s, _ in peers if not udp(s)]
    for s in select.select([frames, *forwards, *streams], [], [])[0]:
        if s is frames:
            f = frames.recv(1 << 17)
            if not f:
                sys.exit(0)
            for peer, address in peers:
                peer.sendto(f[26:], address) if udp(peer) else peer.sendall(f[26:])
        elif s in forwards:
            tell(forwards.index(s))
            if udp(s):
                data, address = s.recvfrom(65536)
                peers = [(s, address)] + [q for q in peers if q[0] is not s]
                frames.send(HEAD + data)
            else:
                peers.append((s.accept()[0], None))
        else:
            data = s.recv(65536)
            if data:
                frames.send(HEAD + data)
            else:
                peers = [q for q in peers if q[0] is not s]
                s.close()
