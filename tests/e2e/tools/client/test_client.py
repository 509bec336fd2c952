"""The files for clients that the build makes from the schema: the Python package and the JSON Schema."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import jsonschema
import pytest

import schemalib
from conftest import BUILD, ROOT, until
from daemonlib import NOBODY, shared  # noqa: F401
from otherslib import as_user
from test_exec import AGENT

PACKAGE = os.path.join(BUILD, "python")
PLATFORM = os.path.join(ROOT, "tests", "clients", "platform.py")
sys.path.insert(0, PACKAGE)
import cairn_client  # noqa: E402
from cairn_client import wire  # noqa: E402


def run(*command, **kwargs):
    r = subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)
    assert r.returncode == 0, r.stdout + r.stderr
    return r.stdout


@pytest.mark.parametrize("variable, folder", [("XDG_RUNTIME_DIR", "cairn"), ("XDG_STATE_HOME", "cairn/run"), ("HOME", ".local/state/cairn/run")])
def test_default_socket_is_that_of_cairn(tmp_path, monkeypatch, variable, folder):
    for name in ("CAIRN_SOCKET", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    path = tmp_path / folder / "cairn.sock"
    path.parent.mkdir(parents=True)
    path.touch()
    assert cairn_client.default_socket() == str(path)
    if os.geteuid():  # root's cairn uses the system's socket
        said = subprocess.run([os.path.join(BUILD, "cairn"), "list"], capture_output=True, text=True, check=False, timeout=50).stderr
        assert f"no daemon listens on {path};" in said


@pytest.mark.seconds(300)
def test_package_and_its_user_pass_mypy(tmp_path):
    user = tmp_path / "user.py"
    user.write_text("from cairn_client import AsyncClient\nasync def f() -> None:\n"
                    "    async with AsyncClient() as c:\n        reveal_type(await c.vm_info('web1'))\n")
    said = run("mypy", "--strict", "--cache-dir", str(tmp_path), os.path.join(PACKAGE, "cairn_client"), PLATFORM, str(user),
               env={**os.environ, "MYPYPATH": PACKAGE})
    assert 'Revealed type is "cairn_client.api.VmFigures"' in said


@pytest.mark.seconds(120)
def test_types_of_typescript_compile_and_refuse_wrong_types(tmp_path):
    """A wrong type that is not refused fails too: the directive above it has no error then."""
    if not shutil.which("tsc"):
        pytest.skip("needs tsc: node-typescript")
    for path in (os.path.join(BUILD, "cairn.d.ts"), os.path.join(ROOT, "tests", "clients", "types.ts")):
        shutil.copy(path, tmp_path)
    run("tsc", "--strict", "--noEmit", "--skipDefaultLibCheck", "--target", "es2020", "--lib", "es2020", "types.ts", cwd=str(tmp_path))


@pytest.mark.seconds(120)
def test_pip_installs_the_package(tmp_path):
    source = tmp_path / "source"
    run("cp", "-r", PACKAGE, str(source))
    run("/usr/bin/python3", "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "--no-deps", "--no-compile",
        "--target", str(tmp_path / "there"), str(source), env={**os.environ, "HOME": str(tmp_path), "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    code = "import cairn_client as c; print(c.Client.vm_start.__doc__.splitlines()[0], len(c.events_by_name))"
    said = run("/usr/bin/python3", "-c", code, env={"PYTHONPATH": str(tmp_path / "there")}, cwd=str(tmp_path))
    assert said.startswith("Start a VM; return when its vCPUs run.")
    assert (tmp_path / "there" / "cairn_client" / "py.typed").exists()


def test_every_command_and_event_is_in_the_package():
    schema = schemalib.schemas()[0].by_name
    for name, e in schema.items():
        if e["meta-type"] == "event":
            assert cairn_client.events_by_name[name].name == name
        if e["meta-type"] != "command" or name == "qmp_capabilities":
            continue
        for client in (cairn_client.Client, cairn_client.AsyncClient):
            method = getattr(client, name.replace("-", "_"))
            code = method.__code__
            parameters = code.co_varnames[1:code.co_argcount + code.co_kwonlyargcount]
            wanted = {m["name"].replace("-", "_") for m in schema[e["arg-type"]]["members"]} | ({"fd"} if e.get("takes-fd") else set())
            assert {p.rstrip("_") for p in parameters} == wanted, name


def test_client_runs_commands_jobs_and_events(fake, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    fake.define("vm1", disks=[{"path": "disk", "format": "qcow2"}])
    with cairn_client.Client(fake.socket) as c:
        assert c.vm_start("vm1").id == 1
        info = c.vm_info("vm1")
        assert (info.word, info.managed_save, info.exit_status) == ("running", False, None)
        job = c.snapshot_create("vm1", name="s1", tags=["keep"])
        assert job.wait(timeout=50).name == "s1" and c.query_jobs() == []
        assert [(s.name, s.tags) for s in c.snapshot_list("vm1").snapshots] == [("s1", ["keep"])]
        names = [e.name for e in c.events(timeout=0)]
        assert "VM_STATE_CHANGE" in names and "SNAPSHOT_CREATED" in names
        with open(tmp_path / "core", "wb+") as f:
            assert c.vm_dump("vm1", f.fileno()).wait().written >= 0
        with pytest.raises(cairn_client.NotFound, match="no snapshot") as e:
            c.snapshot_revert("vm1", name="none").wait()
        assert isinstance(e.value, cairn_client.CairnError) and e.value.error_class == "NotFound"
        with pytest.raises(cairn_client.WrongState):
            c.vm_start("vm1")
        assert c.vm_trend("vm1", series=["cpu"]).series[0].average
        console = c.console("vm1")
        console.close()
        c.vm_destroy("vm1")
        event = next(e for e in c.events(timeout=50) if isinstance(e, cairn_client.ShutdownEvent))
        assert (event.vm, event.reason) == ("vm1", "host-qmp-quit") and event.timestamp > 1e9


def test_events_have_the_numbers_that_query_events_takes(fake):
    """So a client that has lost its connection learns which events it has missed."""
    fake.define("vm1")
    with cairn_client.Client(fake.socket) as c:
        c.vm_start("vm1")
        last = list(c.events(timeout=0))[-1].seq
    with cairn_client.Client(fake.socket) as c:
        c.vm_suspend("vm1")
        page = c.query_events(since=last)
        assert [e.seq for e in c.events(timeout=0)] == [e.seq for e in page.events] and page.events[0].event == "STOP" and not page.lost


def test_asyncio_client_gets_the_events_from_the_call_on(fake):
    fake.define("vm1")

    async def first():
        async with cairn_client.AsyncClient(fake.socket) as c:
            events = c.events()
            await c.vm_start("vm1")
            return (await asyncio.wait_for(anext(events), 50)).vm

    assert asyncio.run(first()) == "vm1"


def test_waiting_for_a_job_times_out(fake, tmp_path):
    """The job continues, and its end can be awaited again."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={tmp_path}/go", disks=[{"path": "disk", "format": "qcow2"}])
    with cairn_client.Client(fake.socket) as c:
        c.vm_start("vm1")
        job = c.snapshot_create("vm1", name="s1")
        with pytest.raises(TimeoutError):
            job.wait(timeout=0.05)
        (tmp_path / "go").touch()
        assert job.wait(timeout=50).name == "s1"


def test_asyncio_client_awaits_many_jobs(fake, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    for i in range(8):
        (tmp_path / f"disk{i}").write_bytes(bytes(1 << 20))
        fake.define(f"vm{i}", disks=[{"path": f"disk{i}", "format": "qcow2"}])

    async def one(c, vm):
        await c.vm_start(vm)
        job = await c.snapshot_create(vm, name="s1")
        result = await job.wait()
        with open(tmp_path / f"core-{vm}", "wb+") as f:
            await (await c.vm_dump(vm, f.fileno())).wait()
        return result.name

    async def all_of_them():
        seen = []

        async def watch(c):
            async for e in c.events():
                seen.append(e.name)

        async with cairn_client.AsyncClient(fake.socket) as c:
            watcher = asyncio.create_task(watch(c))
            names = await asyncio.gather(*(one(c, f"vm{i}") for i in range(8)))
            with pytest.raises(cairn_client.NotFound):
                await c.vm_info("none")
            left = await c.query_jobs()
        await watcher  # the iteration ends with the connection
        return names, left, seen

    names, left, seen = asyncio.run(all_of_them())
    assert names == ["s1"] * 8 and left == [] and seen.count("SNAPSHOT_CREATED") == 8


@contextlib.contextmanager
def stopped(process):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_files_belong_to_the_last_message_that_begins_in_the_data():
    lines = wire.Lines()
    assert lines.feed(b'{"a": 1}\n{"b": 2}\n', [7]) == [({"a": 1}, []), ({"b": 2}, [7])]
    assert lines.feed(b'{"a": 1}\n{"b"', [8]) == [({"a": 1}, [])]
    assert lines.feed(b': 2', []) == []
    assert lines.feed(b'}\n{"c": 3}\n', [9]) == [({"b": 2}, [8]), ({"c": 3}, [9])]


def test_asyncio_client_that_cancels_a_call_goes_on(fake):
    """The daemon reads nothing while the first command, which is longer than the socket's buffer, is cancelled."""
    fake.define("vm1")

    async def cancel():
        async with cairn_client.AsyncClient(fake.socket) as c:
            with stopped(fake.proc):
                long = asyncio.create_task(c.vm_list(after="A" * 900000))
                others = [asyncio.create_task(c.vm_info("vm1")) for _ in range(3)]
                await asyncio.sleep(0.1)
                long.cancel()
                others[1].cancel()
                await asyncio.wait([long, others[1]])
            return [(await o).name for o in (others[0], others[2])], (await c.vm_info("vm1")).name

    assert asyncio.run(cancel()) == (["vm1"] * 2, "vm1")


def test_connection_that_ends_ends_all_that_waits(fake):
    """Also a command that the daemon does not read, the commands behind it, and the events."""
    async def end():
        async with cairn_client.AsyncClient(fake.socket) as c:
            with stopped(fake.proc):
                calls = [asyncio.create_task(c.vm_list(after="A" * 900000)) for _ in range(3)]
                await asyncio.sleep(0.1)
                await c.close()
                assert all(isinstance(e, cairn_client.ConnectionLost) for e in await asyncio.gather(*calls, return_exceptions=True))
            return [e async for e in c.events()]

    assert asyncio.run(end()) == []


def snapshot_slowly(d, c):
    """Begin a snapshot that ends when d.tmp/go exists. Return its job."""
    (d.tmp / "disk").write_bytes(bytes(1 << 20))
    d.define("slow", cmdline=f"work-until={d.tmp}/go", disks=[{"path": "disk", "format": "qcow2"}])
    c.vm_start("slow")
    return c.snapshot_create("slow", name="s1")


def test_waiting_for_a_job_needs_no_events(fake, tmp_path):
    async def wait(id):
        async with cairn_client.AsyncClient(fake.socket) as c:
            await c.event_filter(events=["VM_DEFINED"])
            asyncio.get_running_loop().call_later(0.1, (tmp_path / "go").touch)
            return (await c.job_end(id))["status"]

    with cairn_client.Client(fake.socket) as c:
        id = snapshot_slowly(fake, c).id
        assert asyncio.run(wait(id)) == "concluded"
        c.event_filter(events=["VM_DEFINED"])
        (tmp_path / "go").unlink()
        job = c.snapshot_create("slow", name="s2")
        threading.Timer(0.1, (tmp_path / "go").touch).start()
        assert job.wait(timeout=50).name == "s2"


def test_waiting_for_a_job_ends_when_the_role_is_revoked(shared):  # noqa: F811
    def wait(say):
        with cairn_client.Client(shared.socket) as c:
            say(c.job_entry("job1")["status"])
            with pytest.raises(cairn_client.CairnError) as e:
                c.job_end("job1", None)
            say(e.value.error_class)

    with cairn_client.Client(shared.socket) as c:
        assert snapshot_slowly(shared, c).id == "job1"
        c.permission_grant(user=NOBODY, role="owner", vm="slow")
        with as_user(wait) as says:
            assert says.readline() == '"running"\n'
            c.permission_revoke(user=NOBODY, vm="slow")
            assert says.readline() == '"PermissionDenied"\n'
        (shared.tmp / "go").touch()


def test_connecting_names_the_socket(tmp_path):
    async def connect():
        async with cairn_client.AsyncClient(str(tmp_path / "none")):
            pass

    for connection in (lambda: cairn_client.Client(str(tmp_path / "none")), lambda: asyncio.run(connect())):
        with pytest.raises(FileNotFoundError, match=f"cannot connect to cairnd: No such file or directory: '{tmp_path}/none'"):
            connection()


def test_lost_connections_are_told(fake):
    c = cairn_client.Client(fake.socket)
    fake.stop()
    with pytest.raises((cairn_client.ConnectionLost, BrokenPipeError)):
        c.query_version()
    c.close()
    fake.start()

    async def lost():
        async with cairn_client.AsyncClient(fake.socket) as c:
            fake.stop()
            with pytest.raises((cairn_client.ConnectionLost, BrokenPipeError)):
                await c.query_version()

    asyncio.run(lost())
    fake.start()


# ---- exec(): cairn-agent is a process of this machine, behind a fake VM ----

SCRIPT = 'cat; echo "$A" $PWD >&2; exit 7'


@pytest.fixture
def guest_agent(fake):
    fake.define("web1", cmdline=f'cairn-agent="{AGENT}"', vsock=True)
    fake.define("deaf")
    with cairn_client.Client(fake.socket) as c:
        for vm in ("web1", "deaf"):
            c.vm_start(vm)
        yield c


def test_exec_returns_status_and_streams(guest_agent):
    c = guest_agent
    r = c.exec("web1", ["sh", "-c", SCRIPT], env=["A=b c"], folder="/usr", input_data=b"text\0\377")
    assert r == cairn_client.ExecResult(exit_status=7, signal=None, stdout=b"text\0\377", stderr=b"b c /usr\n", truncated=False)
    assert c.exec("web1", ["cat"], input_data="gr\u00fc\u00df").stdout == b"gr\xc3\xbc\xc3\x9f"
    assert c.exec("web1", ["sh", "-c", "echo $A $B"], env={"A": "b=c", "B": "d"}).stdout == b"b=c d\n"
    r = c.exec("web1", ["sh", "-c", "kill -15 $$"])
    assert (r.signal, r.exit_status) == (15, 143)
    # More than one page, and more than the daemon keeps.
    r = c.exec("web1", ["sh", "-c", "head -c 60000 /dev/zero; head -c 60000 /dev/zero | tr '\\0' x >&2"])
    assert (len(r.stdout), r.stderr, r.truncated) == (60000, b"x" * 60000, False)
    r = c.exec("web1", ["sh", "-c", "head -c 300000 /dev/zero"])
    assert len(r.stdout) == 65536 and r.truncated
    assert c.query_jobs() == []


def test_exec_that_fails_raises_and_leaves_no_job(guest_agent):
    c = guest_agent
    with pytest.raises(cairn_client.CairnError, match="No such file"):
        c.exec("web1", ["/missing"])
    with pytest.raises(cairn_client.CairnError, match="time limit"):
        c.exec("web1", ["sleep", "3600"], timeout=1)
    with pytest.raises(cairn_client.NotFound):
        c.exec("none", ["true"])
    with pytest.raises(cairn_client.CairnError, match="no vsock device"):
        c.exec("deaf", ["true"])
    with pytest.raises(cairn_client.CairnError, match="NAME=VALUE"):
        c.exec("web1", ["true"], env=["A"])
    with pytest.raises(TypeError, match="'echo hi'"):
        c.exec("web1", "echo hi")
    assert c.query_jobs() == []


def test_asyncio_client_executes_many_programs_at_once(guest_agent, fake):
    """Each waits for a file that the last one makes."""
    wait = f"until [ -e {fake.tmp}/go ]; do sleep 0.02; done; cat; exit $0"

    async def all_of_them():
        async with cairn_client.AsyncClient(fake.socket) as c:
            started = [asyncio.create_task(c.exec("web1", ["sh", "-c", wait, str(i)], input_data=str(i).encode())) for i in range(5)]
            made = await c.exec("web1", ["touch", f"{fake.tmp}/go"])
            with pytest.raises(cairn_client.CairnError, match="No such file"):
                await c.exec("web1", ["/missing"])
            return made, await asyncio.gather(*started), await c.query_jobs()

    made, results, left = asyncio.run(all_of_them())
    assert (made.exit_status, left) == (0, [])
    assert [(r.exit_status, r.stdout) for r in results] == [(i, str(i).encode()) for i in range(5)]


@pytest.mark.seconds(200)
def test_platform_boots_forks_executes_and_destroys(daemon, kvm, guest):
    """A platform in 200 lines, on real VMs: fifty sandboxes of one template, each of which answers."""
    count = 50
    assert len(pathlib.Path(PLATFORM).read_text().splitlines()) <= 200
    r = json.loads(run("/usr/bin/python3", PLATFORM, daemon.socket, guest("interp.elf"), str(count), env={**os.environ, "PYTHONPATH": PACKAGE}))
    assert r["answers"] == {f"box-{i}": f"hello-from-box-{i}" for i in range(1, count + 1)}
    assert r["left"] == [] and r["refusals"] == ["NotFound", "WrongState"]
    assert r["words"] == ["running"] * 3 and all(r["cpu"])
    assert r["states"]["running"] == count + 1 and r["states"]["SHUTDOWN"] == count + 1
    until(lambda: not daemon.children())


# ---- JSON Schema ----

SCHEMA = json.loads(pathlib.Path(BUILD, "api.schema.json").read_text())


def validator(of):
    return jsonschema.Draft202012Validator({"$schema": SCHEMA["$schema"], "$ref": f"#/$defs/{of}", "$defs": SCHEMA["$defs"]})


def test_json_schema_is_valid_and_complete():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    schema = schemalib.schemas()[0].by_name
    for name, e in schema.items():
        if e["meta-type"] == "command":
            assert {f"{name}.arguments", f"{name}.result"} <= SCHEMA["$defs"].keys()
            assert (f"{name}.job" in SCHEMA["$defs"]) == e["job"]
        elif e["meta-type"] == "event":
            assert f"event.{name}" in SCHEMA["$defs"]
    for ref in set(re.findall(r'"\$ref": "#/\$defs/([^"/]*)', json.dumps(SCHEMA))):
        assert ref in SCHEMA["$defs"], ref


def test_openrpc_document_has_each_command_and_event():
    doc = json.loads(pathlib.Path(BUILD, "openrpc.json").read_text())
    assert doc["openrpc"] == "1.3.2" and doc["info"]["title"] == "Cairn" and doc["info"]["version"]
    schema = schemalib.schemas()[0].by_name
    assert {m["name"] for m in doc["methods"]} == {n for n, e in schema.items() if e["meta-type"] == "command"}
    assert {e["name"] for e in doc["x-events"]} == {n for n, e in schema.items() if e["meta-type"] == "event"}
    assert "PermissionDenied" in doc["x-error-classes"]
    for m in doc["methods"]:
        assert m["summary"].endswith(".") and m["paramStructure"] == "by-name" and m["x-role"] == schema[m["name"]]["role"]
        assert ("x-job-result" in m) == schema[m["name"]]["job"]
        for p in m["params"]:
            assert p.keys() == {"name", "description", "required", "schema"}
    start, = [m for m in doc["methods"] if m["name"] == "vm-start"]
    assert start["params"][0]["name"] == "vm" and start["params"][0]["required"] and start["params"][0]["schema"] == {"type": "string"}
    known = doc["components"]["schemas"]
    for ref in set(re.findall(r'"\$ref": "([^"]*)', json.dumps(doc))):
        at = known
        assert ref.startswith("#/components/schemas/"), ref
        for part in ref.split("/")[3:]:
            at = at[part]
    jsonschema.Draft202012Validator.check_schema({"$defs": known})


def test_json_schema_accepts_messages_of_the_daemon(fake):
    commands = jsonschema.Draft202012Validator(SCHEMA)
    definition = json.loads(pathlib.Path(fake.write("vm1")).read_text())
    define = {"execute": "vm-define", "arguments": {"definition": definition, "folder": str(fake.tmp)}}
    assert commands.is_valid(define) and commands.is_valid({"execute": "query-version"})
    assert not commands.is_valid({"execute": "vm-start"}) and not commands.is_valid({"execute": "vm-start", "arguments": {"vm": 1}})
    assert not commands.is_valid({"execute": "vm-define", "arguments": {"definition": {"name": "x", "memory": 3.5}}})
    q = fake.qmp()
    validator("vm-define.result").validate(q.run("vm-define", **define["arguments"]))
    validator("vm-start.result").validate(q.run("vm-start", vm="vm1"))
    validator("event.VM_STATE_CHANGE").validate(q.event("VM_STATE_CHANGE", state="running"))
    validator("vm-info.result").validate(q.run("vm-info", vm="vm1"))
    validator("query-events.result").validate(q.run("query-events"))
    assert not validator("vm-info.result").is_valid({"name": "vm1"})
