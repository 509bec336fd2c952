#!/usr/bin/python3
"""A stand-in for cairn-net: makes and removes only the bridge. Beside it lie `requests`, to which it adds each request
as a line, and files of a test: VERB.json has the answer in place of its own, VERB.hold lets it wait until the file is
gone, VERB.die lets it kill itself after its work, VERB.refuse has the MAC address of a port that it refuses. As the
real one, it ends with its daemon: otherwise it would make what the next daemon has removed already."""

import ctypes
import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
HERE = pathlib.Path(__file__).resolve().parent


def ip(*args):
    return subprocess.run(["ip", *args], capture_output=True).returncode == 0


def work(verb, network, folder):
    bridge = network.get("bridge")
    if verb == "up":  # dnsmasq's files
        os.makedirs(f"{folder}/dnsmasq/state", exist_ok=True)
        for name in "service", "dnsmasq/dhcp-hosts", "dnsmasq/state/leases":
            pathlib.Path(folder, name).write_text("")
    if verb == "up" and network["mode"] != "bridge":
        ip("link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        if not ip("link", "set", bridge, "up"):
            return {"error": {"class": "Permission", "desc": "cairn-net needs CAP_NET_ADMIN; start the daemon as root"}}
        return {"return": {"bridge": bridge, "made": True, "service": [], "pid": 1, "uid": 1, "notes": []}}
    if verb == "down":
        ip("link", "del", bridge)
        return {"return": {"removed": [bridge]}}
    if verb == "check":
        return {"return": {"active": ip("link", "show", bridge), "complete": True, "missing": [], "pid": 1}}
    if verb == "update":
        return {"return": {"restarted": False, "notes": []}}
    if verb == "denied":
        return {"return": {"packets": 7}}
    if verb == "leases":
        return {"return": {"leases": []}}
    if verb == "free":
        return {"return": {"address": "192.168.123.1", "prefix": 24}}
    if "ports" in request:
        return {"return": {"ports": [{} for _ in request["ports"]]}}
    return {"return": {}}


def lease_key(lease):
    address = ipaddress.ip_address(lease["address"])
    return int(address) if address.version == 4 else int(address) % (1 << 40) | 1 << 40


def leases_page(leases, page):
    leases = sorted((lease for lease in leases if lease["mac"] == page.get("mac", lease["mac"])), key=lease_key)
    leases = [lease for lease in leases[page["skip"]:] if lease_key(lease) > page["after"]]
    shown = leases[:page["most"]]
    return {"leases": shown, **({"next": lease_key(shown[-1])} if len(leases) > len(shown) else {})}


death, parent = map(int, os.environ["CAIRN_DEATH"].split(":"))
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death)
if os.getppid() != parent:
    sys.exit(1)
request = json.load(sys.stdin)
verb = request["verb"]
told = HERE / f"{verb}.json"
answer = json.loads(told.read_text()) if told.exists() else None  # a test that sees the request tells the next answer
with open(HERE / "requests", "a") as log:
    log.write(json.dumps(request) + "\n")
if answer is None:
    answer = work(verb, request.get("network", {}), request.get("folder"))
if "leases" in answer.get("return", {}):
    answer = {"return": leases_page(answer["return"]["leases"], request["leases"])}
refused = HERE / f"{verb}.refuse"
ports = request.get("ports", [request.get("port") or {}])
if refused.exists() and refused.read_text() in [p.get("mac") for p in ports]:
    answer = {"error": {"class": "HostError", "desc": f"{refused.read_text()} is unwell"}}
while (HERE / f"{verb}.hold").exists():
    time.sleep(0.01)
if (HERE / f"{verb}.die").exists():
    os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps(answer))
sys.exit("error" in answer)
