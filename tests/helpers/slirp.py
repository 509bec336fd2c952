#!/usr/bin/python3
"""Replaces cairn-slirp for a bare-metal guest without TCP: data from a forward goes to the guest as one broadcast
frame, and the guest's frames go to every connected client. The same command line. It never answers the order to add a
forward to the guest's port 999, and answers that for port 998 with text behind the JSON."""

import argparse
import contextlib
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
p.add_argument("--egress")
p.add_argument("--restrict", action="store_true")
p.add_argument("--host-loopback", action="store_true")
p.add_argument("--forward", action="append", default=[])
a = p.parse_args()
print("slirp:", *sys.argv[1:], f"uid={os.geteuid()}", file=sys.stderr, flush=True)
frames = socket.socket(fileno=a.frames)
control = socket.socket(fileno=a.control) if a.control else None
if control:
    control.listen(4)  # a client that connects learns that it is this process
daemon, told, holds = None, [], False
forwards = [socket.socket(fileno=int(f.split(":")[1])) for f in a.forward]
peers = []


def tell(message):
    with contextlib.suppress(OSError, AttributeError):
        daemon.send(json.dumps(message).encode())


def udp(s):
    return s.type == socket.SOCK_DGRAM


while True:
    streams = [s for s, _ in peers if not udp(s)]
    both = [s for s in (control, daemon) if s]
    for s in select.select([frames, *([] if holds else forwards), *streams, *both], [], [])[0]:
        if s is control:
            daemon, holds = control.accept()[0], False
            for n in told:
                tell({"forward": n})
        elif s is daemon:
            try:
                text, fds, _, _ = socket.recv_fds(s, 64, 1)
            except ConnectionResetError:  # unread data is left
                text = b""
            daemon = daemon if text else None
            order = json.loads(text) if text else {"hold": False}
            if order.get("add", "").endswith(":999"):
                os.close(fds[0])  # it loses the order
                continue
            if order.get("add", "").endswith(":998"):
                os.close(fds[0])
                daemon.send(b'{"done": true} true')
                continue
            if "add" in order:
                print("slirp: add", order["add"], file=sys.stderr, flush=True)
                forwards.append(socket.socket(fileno=fds[0]))
            elif "egress" in order:
                with open(fds[0], encoding="ascii") as f:
                    print("slirp: egress", f.read() or "none", file=sys.stderr, flush=True)
            elif "remove" in order:
                forwards.pop(order["remove"]).close()
            else:
                holds = order["hold"]
                if holds:
                    tell({"held": True})
            if "hold" not in order:
                tell({"done": True})
                break  # the removed socket may be in the list of those that are ready
        elif s is frames:
            f = frames.recv(1 << 17)
            told.clear()
            if not f:
                sys.exit(0)
            for peer, address in peers:
                peer.sendto(f[26:], address) if udp(peer) else peer.sendall(f[26:])
        elif s in forwards:
            told.append(forwards.index(s))
            tell({"forward": told[-1]})
            if udp(s):
                data, address = s.recvfrom(65536)
                peers = [(s, address)] + [q for q in peers if q[0] is not s]
                frames.send(HEAD + data)
            else:
                peers.append((s.accept()[0], None))
                print("slirp: lets somebody in", file=sys.stderr, flush=True)
        else:
            data = s.recv(65536)
            if data:
                frames.send(HEAD + data)
            else:
                peers = [q for q in peers if q[0] is not s]
                s.close()
