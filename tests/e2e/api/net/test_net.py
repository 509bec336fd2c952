"""Network interfaces: a guest and a bridge in a network namespace of their own."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import guestlib
from conftest import Console, Daemon, until
from daemonlib import as_nobody
from guestlib import fields
from netlib import ALL, TYPE, Lan, frame, mac_bytes, payload
from test_linux import elsewhere

pytestmark = pytest.mark.usefixtures("kvm")

MAC = "52:54:00:00:00:01"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000


@pytest.fixture
def lan():
    if os.geteuid():
        pytest.skip("needs root, for a network namespace")
    n = Lan()
    yield n
    n.close()


class LanDaemon(Daemon):
    def __init__(self, tmp, lan, args=(), before=()):
        self.lan = lan
        self.args = args
        self.before = before
        super().__init__(tmp)

    def command(self):
        return [*self.lan.enter, *self.before, *super().command(), *self.args]


@pytest.fixture
def host(tmp_path, lan):
    d = LanDaemon(tmp_path, lan)
    yield d
    d.close()


def definition(daemon, name, *interfaces, **more):
    interfaces = interfaces or ({"type": "bridge", "source": "br0", "mac": MAC},)
    d = guestlib.definition(name, interfaces=list(interfaces), **more)
    path = daemon.tmp / f"{name}.json"
    path.write_text(json.dumps(d))
    return str(path)


def start(daemon, name, *interfaces, **more):
    daemon.cairn("define", definition(daemon, name, *interfaces, **more))
    daemon.cairn("start", name)
    c = Console(daemon, name)
    assert c.line() == "interp"
    return c


def opened(c, index=0, without=0):
    return fields(c.run(f"net open {index} {without}")[-1])


def goes_through(c, s, n, seed, mac=MAC):
    """Frames pass unchanged in both directions."""
    c.run(f"net send {n} {seed}")
    got = s.recv(65536)
    assert got[:14] == ALL + mac_bytes(mac) + TYPE.to_bytes(2, "big")
    assert got[14:] == payload(n, seed)
    s.send(frame(n, seed + 1))
    r = fields(c.run(f"net recv {seed + 1}")[-1])
    assert (r["bytes"], r["flags"], r["segments"]) == (n, 0, 0)
    return r["buffers"]


def gone_through(c, s):
    """Skip everything on its way to the guest, up to a frame that is sent last."""
    s.send(frame(61, 7))
    while True:
        with contextlib.suppress(AssertionError):  # another frame
            if fields(c.run("net recv 7")[-1])["bytes"] == 61:
                return


def figures(daemon, name, i=0):
    return daemon.figures(name)["interfaces"][i]


# ---- a bridge ----

def test_frames_go_through_a_bridge(host, lan):
    c = start(host, "a")
    assert opened(c) == {"mac": MAC, "link": 1, "announce": 0, "mtu": 1500, "features": 0x100238028, "status": 15}
    s = lan.socket()
    for i, n in enumerate((46, 100, 1486)):
        assert goes_through(c, s, n, 10 * i) == 1
    i = figures(host, "a")
    assert (i["id"], i["mac"], i["link"], i["target"]) == ("net0", MAC, "up", "vnet0")
    assert (i["tx-packets"], i["tx-bytes"]) == (3, 3 * 14 + 46 + 100 + 1486)
    # The host's own frames (for IPv6) may be among those received.
    assert i["rx-packets"] >= 3 and i["rx-bytes"] >= i["tx-bytes"]
    # When the VM is off, its tap is gone, and the bridge has no port left.
    assert lan.taps() == ["vnet0"]
    host.cairn("destroy", "a")
    until(lambda: not lan.taps())


def test_driver_without_mergeable_buffers_works(host, lan):
    c = start(host, "a")
    assert opened(c, without=1 << 15)["features"] & 1 << 15 == 0
    assert goes_through(c, lan.socket(), 1000, 1) == 1


def test_domifstat_counts_traffic(host, lan):
    """domifstat: virsh's words, and each name of the interface."""
    c = start(host, "vm1")
    opened(c)
    before = dict(line.split()[1:] for line in host.cairn("domifstat", "vm1", "net0").stdout.splitlines())
    assert list(before) == ["rx_bytes", "rx_packets", "rx_errs", "rx_drop", "tx_bytes", "tx_packets", "tx_errs", "tx_drop"]
    c.run("net send 100 1 3")
    for name in ("net0", MAC.upper(), lan.taps()[0]):
        until(lambda: host.cairn("domifstat", "vm1", name).stdout.splitlines()[4:] == [
            f"{name} tx_bytes {3 * 114}", f"{name} tx_packets 3", f"{name} tx_errs 0", f"{name} tx_drop 0"])
    r = host.cairn("domifstat", "vm1", "net9", ok=3)
    assert "has no interface 'net9'. Next: cairn domiflist vm1" in r.stderr
    host.cairn("destroy", "vm1")
    assert "no process that counts packets" in host.cairn("domifstat", "vm1", "net0", ok=4).stderr


def test_large_mtu_of_bridge_reaches_guest(host, lan):
    lan.ip("link", "set", "br0", "mtu", "9000")
    c = start(host, "a")
    assert opened(c)["mtu"] == 9000
    assert lan.ip("link", "show", "br0")[0]["mtu"] == 9000
    assert goes_through(c, lan.socket(), 8986, 1) == 5


def test_frames_without_buffers_wait_in_tap(host, lan):
    """Frames without a buffer wait in the tap; then all arrive in order."""
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    for i in range(300):
        s.send(frame(600, i & 255))
    came = 0
    while came < 300:  # ends with the first gap between frames
        came += int(c.run("net drain")[-1], 0)
    c.run("net send 100 5 400")
    for _ in range(400):
        assert s.recv(2048)[14:] == payload(100, 5)
    assert goes_through(c, s, 77, 3) == 1


def test_thread_waits_for_its_turn_while_it_moves_bulk_data(host, lan):
    """SCHED_BATCH during bulk data (base/batch_sched.h), SCHED_OTHER before and afterwards."""
    c = start(host, "a")
    opened(c)
    tasks = pathlib.Path(f"/proc/{host.info('a')['pid']}/task")
    thread, = [int(t.name) for t in tasks.iterdir() if (t / "comm").read_text() == "net0\n"]
    assert goes_through(c, lan.socket(), 46, 1) == 1
    assert os.sched_getscheduler(thread) == os.SCHED_OTHER

    def sent(size, count, policy):
        c.run(f"net send {size} 1 {count}")
        return os.sched_getscheduler(thread) == policy

    until(lambda: sent(60000, 200, os.SCHED_BATCH))
    until(lambda: sent(46, 1, os.SCHED_OTHER))


def test_two_vms_reach_each_other(host, lan):
    other = "52:54:00:00:00:02"
    a = start(host, "a")
    b = start(host, "b", {"type": "bridge", "source": "br0", "mac": other})
    opened(a)
    opened(b)
    a.run("net send 500 9")
    assert fields(b.run("net recv 9")[-1])["bytes"] == 500
    b.run("net send 501 8")
    assert fields(a.run("net recv 8")[-1])["bytes"] == 501
    assert sorted(lan.taps()) == ["vnet0", "vnet1"]


@pytest.mark.parametrize("which,name,reset", [(0, "short", 1), (1, "beyond", 1), (2, "loop", 1),
                                              (3, "buffers", 1), (4, "writable", 1), (5, "header", 0)])
def test_malformed_rings_and_headers_reset_interface(host, lan, which, name, reset):
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    if name == "buffers":
        c.run("net open 0")  # use up the valid buffers first
        for i in range(70):
            s.send(frame(60, i))
    r = fields(c.run(f"net wrong {which}")[-1])
    assert r == {"wrong": name, "reset": reset}
    if name == "header":
        assert figures(host, "a")["tx-errors"] > 0
    opened(c)
    gone_through(c, s)
    s.close()  # with the frames that came meanwhile
    assert goes_through(c, lan.socket(), 200, 4) == 1


def test_deleted_tap_sets_link_down(host, lan):
    c = start(host, "a")
    opened(c)
    lan.ip("link", "del", "vnet0")
    until(lambda: figures(host, "a")["link"] == "down")
    assert fields(c.run("net show")[-1])["link"] == 0
    c.run("net send 100 1")
    assert figures(host, "a")["tx-drops"] >= 1


# ---- an interface over a VM's life ----

def test_network_survives_kill_of_daemon(host, lan):
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    host.stop(signal.SIGKILL)
    assert goes_through(c, s, 300, 1) == 1
    host.start()
    assert goes_through(c, s, 300, 3) == 1
    assert figures(host, "a")["target"] == "vnet0"


def test_interface_works_after_save_and_revert(host, lan, tmp_path):
    path = tmp_path / "a.qcow2"
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(path), "4M"],
                   check=True)
    c = start(host, "a", disks=[{"path": str(path), "format": "qcow2"}])
    opened(c)
    s = lan.socket()
    goes_through(c, s, 300, 1)
    host.cairn("snapshot-create-as", "a", "s1")
    goes_through(c, s, 300, 3)
    host.cairn("snapshot-revert", "a", "s1")
    # The driver continues with its old rings.
    assert goes_through(c, s, 300, 5) == 1
    c.close()
    host.cairn("managedsave", "a")
    until(lambda: not lan.taps())
    host.cairn("start", "a")
    c = Console(host, "a")
    assert goes_through(c, s, 300, 7) == 1
    # The bridge is another one now; the state does not contain the bridge.
    host.cairn("managedsave", "a")
    lan.ip("link", "add", "br1", "type", "bridge")
    lan.ip("link", "set", "br1", "up")
    host.cairn("define", definition(host, "a", {"type": "bridge", "source": "br1", "mac": MAC},
                                    disks=[{"path": str(path), "format": "qcow2"}]))
    host.cairn("start", "a")
    assert goes_through(Console(host, "a"), lan.socket("br1"), 300, 9) == 1


def test_restored_vm_has_the_interface_of_its_state(host, lan, tmp_path):
    """Also if it is defined with another MAC address or type: a driver on a bridge does not complete its frames, as a
    user network needs."""
    start(host, "a")
    host.cairn("save", "a", str(tmp_path / "saved"))
    for other in {"type": "bridge", "source": "br0", "mac": "52:54:00:00:00:02"}, {"type": "user", "mac": MAC}:
        host.cairn("define", definition(host, "a", other))
        assert "interfaces[0]: differs" in host.cairn("restore", str(tmp_path / "saved")).stdout
        interface, = json.loads(host.cairn("dumpjson", "a").stdout)["interfaces"]
        assert (interface["type"], interface["mac"]) == ("bridge", MAC)
        host.cairn("destroy", "a")


def test_missing_bridge_keeps_managed_save(host, lan):
    c = start(host, "a")
    opened(c)
    host.cairn("managedsave", "a")
    lan.ip("link", "del", "br0")
    assert "there is no bridge 'br0'" in host.cairn("start", "a", ok=False).stderr
    assert host.info("a")["state"] == "saved"
    lan.ip("link", "add", "br0", "type", "bridge")
    lan.ip("link", "set", "br0", "up")
    host.cairn("start", "a")
    assert goes_through(Console(host, "a"), lan.socket(), 100, 1) == 1


def test_clones_have_taps_and_addresses_of_their_own(host, lan):
    c = start(host, "a")
    opened(c)
    host.cairn("clone", "--live", "a", "b")
    i = figures(host, "b")
    assert i["target"] == "vnet1" and i["mac"] != MAC and i["link"] == "up"
    b = Console(host, "b")
    # Its driver has read the old MAC once; the device now has the new one.
    s = lan.socket()
    goes_through(b, s, 200, 1)
    assert fields(b.run("net show")[-1])["mac"] == i["mac"]
    # The clone's driver is asked to announce its addresses, the original's is not.
    assert [fields(x.run("net show")[-1])["announce"] for x in (b, c)] == [1, 0]
    gone_through(c, s)
    goes_through(c, s, 200, 5)
    host.cairn("destroy", "b")
    until(lambda: lan.taps() == ["vnet0"])


# ---- Linux ----

def echo(listener, n):
    """Receive bytes and send them back."""
    s, _ = listener.accept()
    with s:
        got = bytearray()
        while part := s.recv(1 << 20):
            got += part
        assert len(got) == n
        s.sendall(got)


@elsewhere
@pytest.mark.seconds(1500)  # the first test that needs a kernel builds it
def test_linux_uses_network_with_offloads_and_announces_itself(host, lan):
    n = 16 << 10  # an emulated kernel is slow
    lan.ip("addr", "add", "10.9.0.1/8", "dev", "br0")
    # A guest that answers slowly on a busy host must not be taken for lost frames: the host would send single ones.
    lan.ip("route", "change", "10.0.0.0/8", "dev", "br0", "src", "10.9.0.1", "rto_min", "60s")
    listener = lan.inside(lambda: socket.create_server(("10.9.0.1", 7)))
    path = host.tmp / "linux.json"
    path.write_text(json.dumps(guestlib.linux_definition(
        "linux", interfaces=[{"type": "bridge", "source": "br0", "mac": MAC}])))
    host.cairn("define", str(path))
    host.cairn("start", "linux")
    c = Console(host, "linux")
    c.sock.settimeout(180)
    while not c.line().startswith("cairn-guest: ready"):
        pass
    assert c.run("read /sys/class/net/eth0/address") == [MAC]
    c.run("ifup eth0 10.9.0.2")
    assert c.run("read /sys/class/net/eth0/carrier") == ["1"]
    seen = lan.socket(kind=3)  # ETH_P_ALL
    with ThreadPoolExecutor() as pool:
        served = pool.submit(echo, listener, n)
        c.run(f"tcp 10.9.0.1 7 {n} 3")
        served.result()
    i = figures(host, "linux")
    assert i["tx-bytes"] > n < i["rx-bytes"] and i["rx-drops"] == i["tx-errors"] == 0
    # Frames larger than the MTU: segmentation is left to the other side, in both directions.
    longest = {True: 0, False: 0}
    seen.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while f := seen.recv(1 << 17):
            longest[f[6:12] == mac_bytes(MAC)] = max(len(f), longest[f[6:12] == mac_bytes(MAC)])
    assert longest[True] > 1514 < longest[False]
    # Another process announces the guest's address: gratuitous ARP, whose two protocol addresses are the same.
    arp = lan.socket(kind=0x0806)
    host.cairn("managedsave", "linux")
    host.cairn("start", "linux")
    while (f := arp.recv(2048))[6:12] != mac_bytes(MAC) or f[28:32] != f[38:42]:
        pass
    c.close()


# ---- no link ----

@pytest.mark.parametrize("interface,why", [
    ({"type": "user", "link": "down"}, ""),
    ({"type": "network", "source": "default", "link": "down"}, ""),
    ({"type": "bridge", "source": "br0", "link": "down"}, ""),
])
def test_interface_without_source_has_no_link(daemon, interface, why):
    assert daemon.cairn("define", definition(daemon, "a", {**interface, "mac": MAC})).stderr == why
    c = start(daemon, "a", {**interface, "mac": MAC})
    r = opened(c)
    assert (r["mac"], r["link"], r["status"]) == (MAC, 0, 15)
    c.run("net send 100 1 5")
    i = figures(daemon, "a")
    assert (i["link"], i["tx-drops"], i["tx-packets"]) == ("down", 5, 0)
    assert "target" not in i


# ---- refusals ----

class Tap:
    """A tap that another program has open, for Lan.inside()."""

    def __init__(self, name):
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))

    def settimeout(self, seconds):
        pass

    def close(self):
        os.close(self.fd)


@pytest.mark.parametrize("source,why", [
    ("br9", "interfaces[0].source: there is no bridge 'br9'; create it with: ip link add br9 type bridge && "
            "ip link set br9 up"),
    ("lo", "interfaces[0].source: 'lo' is not a bridge; give the name of a bridge (ip link show type bridge)"),
])
def test_start_fails_when_bridge_is_unusable(host, lan, source, why):
    host.cairn("define", definition(host, "a", {"type": "bridge", "source": source}))
    assert why in host.cairn("start", "a", ok=False).stderr
    assert host.info("a")["state"] == "shutoff"
    assert not lan.taps()


def test_failed_start_removes_created_taps(host, lan):
    host.cairn("define", definition(host, "a", {"type": "bridge", "source": "br0"},
                                    {"type": "bridge", "source": "br9"}))
    assert "interfaces[1].source" in host.cairn("start", "a", ok=False).stderr
    until(lambda: not lan.taps())


def test_taps_of_others_are_left_alone(host, lan):
    """A name that is in use is not taken: neither that of a tap which another program has open, nor of one that it has
    left."""
    for name in "vnet0", "vnet1":
        lan.ip("tuntap", "add", name, "mode", "tap")
    lan.inside(lambda: Tap("vnet0"))
    c = start(host, "a")
    assert figures(host, "a")["target"] == "vnet2"
    opened(c)
    goes_through(c, lan.socket(), 100, 3)
    host.cairn("destroy", "a")
    until(lambda: lan.taps() == ["vnet0", "vnet1"])


def test_start_fails_when_daemon_may_not_create_taps(tmp_path, lan):
    d = LanDaemon(tmp_path, lan, before=["setpriv", "--bounding-set=-net_admin"])
    try:
        d.cairn("define", definition(d, "a"))
        assert ("interfaces[0]: attaching to bridge 'br0' requires root (CAP_NET_ADMIN)"
                in d.cairn("start", "a", ok=False).stderr)
        assert not lan.taps()
    finally:
        d.close()


@pytest.fixture
def open_to_others(lan):
    """A daemon and a folder that other users can reach, with one of two bridges allowed for all."""
    lan.ip("link", "add", "br1", "type", "bridge")
    lan.ip("link", "set", "br1", "up")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        d = LanDaemon(pathlib.Path(folder), lan, args=["--allow-bridge", "br,br1,br10"])
        shutil.copy(guestlib.bare("interp"), folder)
        d.cairn("grant", "admin", "--user", "nobody")
        yield d
        d.close()


def test_user_may_use_allowed_bridges_only(open_to_others, lan):
    d = open_to_others
    for name, bridge in (("a", "br0"), ("b", "br1")):
        v = guestlib.definition(name, interfaces=[{"type": "bridge", "source": bridge}],
                                boot={"kernel": str(d.tmp / "interp.elf")})
        defined, started = as_nobody(d, ["vm-define", {"definition": v}], ["vm-start", {"vm": name}])
        assert "return" in defined
        if bridge == "br1":
            assert "return" in started
            continue
        assert started["error"]["class"] == "PermissionDenied"
        assert ("interfaces[0].source: user 65534 defined the VM and may not use bridge 'br0'"
                in started["error"]["desc"])
        # The start fails even if root starts the VM.
        assert "may not use bridge" in d.cairn("start", name, ok=False).stderr
    assert lan.taps() == ["vnet0"]
    assert lan.ip("link", "show", "vnet0")[0]["master"] == "br1"


def test_cairn_run_has_network_with_callers_rights(lan, tmp_path):
    """cairn run: with the caller's rights."""
    d = guestlib.definition(interfaces=[{"type": "bridge", "source": "br0"}])
    d["boot"]["cmdline"] = "net open 0;exit 3"
    (tmp_path / "vm.json").write_text(json.dumps(d))
    r = subprocess.run([*lan.enter, guestlib.CAIRN, "run", str(tmp_path / "vm.json")], capture_output=True,
                       text=True, timeout=50, stdin=subprocess.DEVNULL)
    assert "link=1" in r.stdout and "mac=52:54:00:" in r.stdout, r.stdout + r.stderr
