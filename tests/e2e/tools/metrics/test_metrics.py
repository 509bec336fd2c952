"""cairn metrics and cairn-metrics: statistics for Prometheus."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, Daemon, free_port, until
from metricslib import Server, open_daemon, parse, promtool, value

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def fake(tmp_path):
    with contextlib.closing(Daemon(tmp_path, FAKE_VM)) as d:
        yield d


@pytest.fixture
def shared():
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    with open_daemon() as d:
        yield d


@pytest.fixture
def serve(shared):
    with contextlib.ExitStack() as stack:
        def start(*args, **keys):
            s = Server(shared, *args, **keys)
            stack.callback(s.close)
            return s
        yield start


def unix(daemon, path="/metrics", method="GET", **headers):
    c = http.client.HTTPConnection("localhost", timeout=100 * guestlib.SLOW)
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.settimeout(100 * guestlib.SLOW)
    c.sock.connect(str(daemon.tmp / "m/metrics.sock"))
    return ask(c, path, method, **headers)


def ask(c, path="/metrics", method="GET", **headers):
    with contextlib.closing(c):
        c.request(method, path, headers=headers)
        r = c.getresponse()
        return r, r.read().decode()


def test_metrics_agree_with_vm_info(fake):
    fake.define("on", vcpus=2, boot={"kernel": str(fake.tmp / "kernel"), "cmdline": "works=3"})
    fake.define("off")
    fake.cairn("start", "on")
    info = fake.figures("on")
    while "cairn_domain_cpu_time_seconds_total{" not in (text := fake.cairn("metrics").stdout):
        pass  # the process stood still
    samples = parse(text)
    later = fake.figures("on")
    assert value(samples, "cairn_up") == 1
    assert value(samples, "cairn_domain_info", domain="on", uuid=info["uuid"]) == 1
    for vm, word in (("on", "running"), ("off", "shutoff")):
        states = {dict(labels)["cairn_domain_state"]: v for (m, labels), v in samples.items()
                  if m == "cairn_domain_state" and dict(labels)["domain"] == vm}
        assert len(states) == 7 and [s for s in states if states[s]] == [word]
    assert value(samples, "cairn_domain_virtual_cpus", domain="on") == info["vcpus"] == 2
    assert value(samples, "cairn_domain_maximum_memory_bytes", domain="on") == info["memory"]
    assert info["cpu-time"] / 1e9 <= value(samples, "cairn_domain_cpu_time_seconds_total", domain="on") <= later["cpu-time"] / 1e9
    last = len(info["vcpu-times"]) - 1
    assert (info["vcpu-times"][last] / 1e9 <= value(samples, "cairn_domain_vcpu_time_seconds_total", domain="on", vcpu=str(last)) <=
            later["vcpu-times"][last] / 1e9)
    for group, prefix, pairs in (("disks", "block", (("read_bytes_total", "rd-bytes"), ("write_requests_total", "wr-reqs"), ("capacity_bytes", "size"))),
                                 ("interfaces", "interface", (("receive_bytes_total", "rx-bytes"), ("transmit_drops_total", "tx-drops")))):
        assert info[group]
        o, end = info[group][0], later[group][0]  # the simulated VM's devices have no names, and so one name
        for name, key in pairs:
            found = value(samples, f"cairn_domain_{prefix}_stats_{name}", domain="on", target_device=o.get("target", o["id"]))
            assert o[key] <= found <= end[key], name
    assert ("cairn_domain_cpu_time_seconds_total", frozenset({("domain", "off")})) not in samples


def test_metrics_of_the_host(fake):
    """Jobs, pools, web hooks, memory and processors. promtool knows the rules for names."""
    folder = fake.tmp / "images"
    folder.mkdir()
    fake.define("vm1")
    fake.cairn("start", "vm1")
    samples = parse(fake.cairn("metrics").stdout)
    assert value(samples, "cairn_jobs_finished_total", type="snapshot-create") == 0
    assert not any(metric.startswith("cairn_pool") for metric, _ in samples)
    fake.cairn("pool-define-as", "images", "dir", "--target", str(folder))
    q = fake.qmp()
    until(lambda: "used" in next(p for p in q.run("query-pools")["pools"] if p["name"] == "images"))
    fake.cairn("vol-create-as", "images", "a.qcow2", "1M")
    fake.cairn("vol-create-as", "images", "a.qcow2", "1M", ok=None)  # it exists
    for name in ("a", "b"):
        fake.cairn("web-hook", name, "--url", "http://127.0.0.1:1/", "--private")
    fake.cairn("destroy", "vm1")
    until(lambda: all(h["waiting"] for h in q.run("query-web-hooks")["hooks"]))
    text = fake.cairn("metrics").stdout
    samples, host = parse(text), q.run("vm-stats")["host"]
    pool = next(p for p in q.run("query-pools")["pools"] if p["name"] == "images")
    assert value(samples, "cairn_pool_capacity_bytes", pool="images") == pool["total"]
    assert value(samples, "cairn_pool_allocation_bytes", pool="images") == pool["used"]
    assert value(samples, "cairn_pool_available_bytes", pool="images") == pool["total"] - pool["used"] > 0
    states = {(dict(labels)["pool"], dict(labels)["cairn_pool_state"]): v for (m, labels), v in samples.items() if m == "cairn_pool_state"}
    assert len(states) == 3 and [s for s in states if states[s]] == [("images", "low" if pool.get("low") else "ok")]
    jobs = {j["type"]: j for j in host["jobs"]}
    for kind, job in jobs.items():
        assert value(samples, "cairn_jobs_finished_total", type=kind) == job["finished"]
        assert value(samples, "cairn_jobs_failed_total", type=kind) == job["failed"]
        assert value(samples, "cairn_jobs_cancelled_total", type=kind) == job["cancelled"] == 0
        assert value(samples, "cairn_jobs_running", type=kind) == job["running"] == 0
    assert (jobs["volume-create"]["finished"], jobs["volume-create"]["failed"]) in ((2, 1), (1, 0))
    assert value(samples, "cairn_web_hook_events_queued") == sum(h["waiting"] for h in q.run("query-web-hooks")["hooks"]) >= 2
    assert value(samples, "cairn_web_hook_events_delivered_total") == 0
    assert value(samples, "cairn_host_cpus") == os.cpu_count()
    with open("/proc/meminfo") as f:
        total = int(next(line for line in f if line.startswith("MemTotal:")).split()[1]) * 1024
    assert value(samples, "cairn_host_memory_bytes") == total >= value(samples, "cairn_host_memory_available_bytes") > 0


def test_cancelled_job_is_no_failed_one(fake):
    fake.define("vm1", boot={"kernel": str(fake.tmp / "kernel"), "cmdline": f"work-until={fake.tmp}/never"})
    fake.cairn("start", "vm1")
    q = fake.qmp()
    job = q.run("snapshot-create", vm="vm1", name="one")["job"]
    q.event("JOB_PROGRESS", id=job)
    q.run("job-cancel", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    samples = parse(fake.cairn("metrics").stdout)
    counts = {of: value(samples, f"cairn_jobs_{of}_total", type="snapshot-create") for of in ("finished", "failed", "cancelled")}
    assert counts == {"finished": 1, "failed": 0, "cancelled": 1}


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs prometheus")
def test_names_follow_the_rules_of_prometheus(fake):
    fake.define("on", vcpus=2, boot={"kernel": str(fake.tmp / "kernel"), "cmdline": "works=3"})
    fake.cairn("start", "on")
    fake.cairn("pool-define-as", "images", "dir", "--target", str(fake.tmp))
    while "cairn_domain_cpu_time_seconds_total{" not in (text := fake.cairn("metrics").stdout):
        pass  # the process stood still
    r = promtool(text)
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")


def test_sums_of_web_hooks_do_not_decrease(fake):
    """Events of a web hook that is removed stay counted."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        s.settimeout(50)
        fake.define("vm1")
        fake.cairn("web-hook", "a", "--url", f"http://127.0.0.1:{s.getsockname()[1]}/", "--private")
        fake.cairn("start", "vm1")
        with s.accept()[0] as c:
            c.recv(1)
            c.sendall(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
            until(lambda: value(parse(fake.cairn("metrics").stdout), "cairn_web_hook_events_failed_total") == 1)
        fake.cairn("web-hook-remove", "a")
        samples = parse(fake.cairn("metrics").stdout)
        assert value(samples, "cairn_web_hook_events_failed_total") == 1 and value(samples, "cairn_web_hook_events_queued") == 0


def test_pages_list_every_vm_once(fake):
    names = [f"{i:03}" + "n" * 60 for i in range(170)]
    q = fake.qmp()
    (fake.tmp / "kernel").touch()
    for name in names:
        q.run("vm-define", definition={"name": name, "memory": "32M", "boot": {"kernel": str(fake.tmp / "kernel")}})
    found, pages, after = [], 0, {}
    while True:
        page = q.run("vm-stats", **after)  # the client checks that no line has 64 KiB
        found += [vm["name"] for vm in page["vms"]]
        pages += 1
        if "next" not in page:
            break
        after = {"after": page["next"]}
    assert found == names and pages > 1
    assert fake.cairn("domstats").stdout.count("Domain: ") == len(names)


def test_dead_process_delays_no_other_vm(fake):
    for name, cmdline in (("mute", "mute"), ("well", "works=1")):
        fake.define(name, boot={"kernel": str(fake.tmp / "kernel"), "cmdline": cmdline})
        fake.cairn("start", name)
    q = fake.qmp()
    until(lambda: [(vm["name"], vm["word"], "cpu-time" in vm) for vm in q.run("vm-stats")["vms"]] == [
        ("mute", "running", False), ("well", "running", True)])  # "well" may stand still once


def test_unix_socket_serves_viewer(shared, serve):
    shared.define("mine")
    shared.define("other")
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    serve("--unix", str(shared.tmp / "m/metrics.sock")).ready()
    r, text = unix(shared)
    assert r.status == 200 and r.getheader("Content-Type").startswith("application/openmetrics-text; version=1.0.0")
    assert {dict(labels)["domain"] for m, labels in parse(text) if m == "cairn_domain_info"} == {"mine"}
    assert "cairn_host_cpus " in text and "cairn_jobs" not in text, "jobs and pools need a role for all VMs"
    shared.cairn("grant", "viewer", "--user", "nobody")
    assert "cairn_jobs" in unix(shared)[1]
    shared.cairn("revoke", "--user", "nobody")
    assert unix(shared, method="HEAD")[1] == ""
    assert [unix(shared, path)[0].status for path in ("/", "/metrics/../x", "/%00")] == [404] * 3
    r, _ = unix(shared, method="POST")
    assert r.status == 405 and r.getheader("Allow") == "GET, HEAD"
    shared.stop()
    r, text = unix(shared)
    assert r.status == 200 and value(parse(text), "cairn_up") == 0
    shared.start()
    assert value(parse(unix(shared)[1]), "cairn_up") == 1
    assert os.stat(shared.tmp / "m/metrics.sock").st_mode & 0o777 == 0o660


def test_daemon_that_hangs_is_down(shared, serve):
    shared.cairn("grant", "viewer", "--user", "nobody")
    serve("--unix", str(shared.tmp / "m/metrics.sock")).ready()
    shared.proc.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert value(parse(unix(shared)[1]), "cairn_up") == 0
        assert time.monotonic() - begun < 10 * guestlib.SLOW
    finally:
        shared.proc.send_signal(signal.SIGCONT)
    until(lambda: value(parse(unix(shared)[1]), "cairn_up") == 1)


def test_refusal_is_no_daemon_that_is_down(shared, serve):
    shared.define("vm1")
    with open(shared.tmp / "log", "wb") as log:
        serve("--unix", str(shared.tmp / "m/metrics.sock"), stderr=log).ready()
        for says in ("no permission to connect", "requires the role viewer"):
            for _ in range(15):
                r, text = unix(shared)
                assert r.status == 503 and says in text and "cairn_up" not in text, text
            shared.cairn("grant", "viewer", "--user", "60001")  # now others may connect
        shared.cairn("grant", "viewer", "--user", "nobody")
        r, text = unix(shared)
        assert r.status == 200 and "state_since_timestamp_seconds{" not in text  # the VM was never started
    assert 1 <= (shared.tmp / "log").read_text().count("cairn-metrics: ") <= 20


def test_slow_client_holds_nobody_up(shared, serve):
    shared.cairn("grant", "viewer", "--user", "nobody")
    serve("--unix", str(shared.tmp / "m/metrics.sock")).ready()
    slow = []
    for _ in range(20):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(shared.tmp / "m/metrics.sock"))
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ")
        slow.append(s)
    assert value(parse(unix(shared)[1]), "cairn_up") == 1
    slow[0].sendall(b"a" * 100000)  # more headers than there is room for
    assert value(parse(unix(shared)[1]), "cairn_up") == 1
    for s in slow:
        s.close()


def drip(sock):
    """Send one more byte of a header. Returns whether the server still wants it."""
    try:
        sock.sendall(b"a")
        return True
    except OSError:
        return False


def test_clients_that_never_end_their_request_keep_nobody_out(shared, serve, token):
    """Each sends a byte often enough not to be idle."""
    shared.cairn("grant", "viewer", "--user", "nobody")
    port = free_port()
    serve("--tcp", f"127.0.0.1:{port}", "--token-file", str(token)).ready()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(32)]
        for s in slow:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ")
        until(lambda: not waiting(port))
        end = threading.Event()
        t = threading.Thread(target=lambda: [drip(s) for _ in iter(lambda: end.wait(1), True) for s in slow])
        t.start()
        try:
            r, text = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), Authorization="Bearer " + TOKEN)
            assert r.status == 200 and value(parse(text), "cairn_up") == 1
            until(lambda: not any(drip(s) for s in slow))  # also without other clients
        finally:
            end.set()
            t.join()


def waiting(port):
    """Return the number of connections that the server has not accepted."""
    text = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True, timeout=50).stdout
    return int(text.split()[1])


@pytest.fixture
def token(shared):
    path = shared.tmp / "m/token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    return path


def test_tcp_port_wants_token(shared, serve, token):
    shared.cairn("grant", "viewer", "--user", "nobody")
    port = free_port()
    serve("--tcp", f"127.0.0.1:{port}", "--token-file", str(token)).ready()

    def tcp(**headers):
        return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=100 * guestlib.SLOW), **headers)
    for wrong in ({}, {"Authorization": "Bearer " + TOKEN[:-1]}, {"Authorization": "Bearer " + TOKEN + "0"},
                  {"Authorization": "Basic " + TOKEN}, {"Authorization": TOKEN}, {"Authorization": "Bearer "}):
        r, text = tcp(**wrong)
        assert r.status == 401 and r.getheader("WWW-Authenticate").startswith("Bearer") and "cairn_up" not in text, wrong
    r, text = tcp(Authorization="Bearer " + TOKEN)
    assert r.status == 200 and value(parse(text), "cairn_up") == 1
    second = serve_second(shared, token, port)
    assert second.returncode == 1 and "another program has this port" in second.stderr


def serve_second(shared, token, port):
    return subprocess.run([shared.tmp / "cairn-metrics", "--tcp", f"127.0.0.1:{port}", "--token-file", token], user=65534, group=65534,
                          extra_groups=[], capture_output=True, text=True, timeout=30, env=shared.env)


@pytest.mark.parametrize("args, status, words", [
    ([], 2, "give either --unix or --tcp"), (["--unix", "a", "--tcp", "b"], 2, "give either"), (["--nothing"], 2, "unknown option"),
    (["--tcp", "127.0.0.1:9177"], 2, "--tcp needs --token-file"), (["--unix", "a", "--token-file", "b"], 2, "is for --tcp"),
    (["--tcp", "127.0.0.1:9177", "--token-file", "/nonexistent"], 1, "/nonexistent: No such file"),
    (["--tcp", "127.0.0.1", "--token-file", "TOKEN"], 2, "must be ADDRESS:PORT"),
    (["--tcp", "localhost:9177", "--token-file", "TOKEN"], 2, "must be ADDRESS:PORT"),
    (["--tcp", "127.0.0.1:99999", "--token-file", "TOKEN"], 2, "must be ADDRESS:PORT"),
    (["--tcp", "127.0.0.1:9177", "--token-file", "OPEN"], 2, "every user may read the token"),
    (["--tcp", "127.0.0.1:9177", "--token-file", "SHORT"], 2, "16 to 256 printable characters"),
    (["--tcp", "TAKEN", "--token-file", "TOKEN"], 1, "Address already in use"),
    (["--unix", "/" + "a" * 108], 2, "at most 107 bytes"), (["--unix", "/nonexistent/s"], 1, "cannot listen on /nonexistent/s")])
def test_bad_options_are_refused(tmp_path, args, status, words):
    os.chmod(tmp_path, 0o755)
    files = {"TOKEN": (TOKEN, 0o600), "OPEN": (TOKEN, 0o644), "SHORT": ("short", 0o600)}
    for name, (text, mode) in files.items():
        (tmp_path / name).write_text(text + "\n")
        (tmp_path / name).chmod(mode)
        os.chown(tmp_path / name, 65534, 65534) if os.geteuid() == 0 else None
    as_user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    if as_user:
        for folder in tmp_path.parents[:2]:
            os.chmod(folder, 0o755)
        subprocess.run(["cp", os.path.join(BUILD, "cairn-metrics"), tmp_path], check=True)
    program = tmp_path / "cairn-metrics" if as_user else os.path.join(BUILD, "cairn-metrics")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words_of = {"TAKEN": "127.0.0.1:%u" % taken.getsockname()[1], **{name: str(tmp_path / name) for name in files}}
        r = subprocess.run([program, *(words_of.get(a, a) for a in args)], capture_output=True, text=True, timeout=30, **as_user)
    assert r.returncode == status and words in r.stderr, r


def test_root_is_refused(tmp_path):
    if os.geteuid():
        pytest.skip("needs root")
    r = subprocess.run([os.path.join(BUILD, "cairn-metrics"), "--unix", tmp_path / "s"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "systemctl start cairn-metrics" in r.stderr and not (tmp_path / "s").exists()
