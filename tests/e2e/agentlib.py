"""A guest agent behind a Unix socket, for VMs of fake_vm (agent-socket=PATH). It runs programs and opens files on this
machine, below one folder; a test can replace the answer to each command."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading

QEMU_GA = shutil.which("qemu-ga", path="/usr/sbin:/sbin:/usr/bin:/bin")


class Refused(Exception):
    pass


class Agent:
    def __init__(self, path, root):
        self.root = pathlib.Path(root)
        self.asked = []  # the commands so far
        self.answers = {}  # {command: value, bytes for the whole line, or function of the arguments}
        self.programs, self.files = {}, {}
        self.vcpus = [True, True, True, False]  # online
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self.sock.accept()
                with conn, contextlib.suppress(OSError):
                    line = conn.makefile("rb").readline()
                    conn.sendall(self.answer(line) + b"\n")

    def answer(self, line):
        """Return the line that answers a command."""
        o = json.loads(line)
        args = o.get("arguments", {})
        self.asked.append((o["execute"], args))
        own = self.answers.get(o["execute"], getattr(self, o["execute"].replace("-", "_"), None))
        try:
            if own is None:
                raise Refused("The command has not been found")
            value = own(**{k.replace("-", "_"): v for k, v in args.items()}) if callable(own) else own
        except (Refused, OSError) as e:
            return json.dumps({"error": {"class": "GenericError", "desc": str(e)}}).encode()
        return value if isinstance(value, bytes) else json.dumps({"return": value}).encode()

    # ---- what it does ----

    def guest_exec(self, path, arg=(), input_data="", capture_output=False, env=None):
        command = [path, *arg]
        if path == "kill":
            command[-1] = str(self.programs[int(arg[-1])].pid)
        if path == "chmod":
            command[-1] = str(self.below(arg[-1]))
        if path == "runuser":
            command = command[4:]
        try:
            data, out, err = (tempfile.TemporaryFile() for _ in range(3))
            data.write(base64.b64decode(input_data))
            data.seek(0)
            p = subprocess.Popen(command, stdin=data, stdout=out, stderr=err, cwd=self.root)
        except OSError as e:
            raise Refused(f"Guest agent command failed, error was 'Failed to execute child process ({os.strerror(e.errno)})'") from e
        data.close()
        p.outputs = out, err
        self.programs[p.pid] = p
        return {"pid": p.pid}

    def guest_exec_status(self, pid):
        p = self.programs[pid]
        if p.poll() is None:
            return {"exited": False}
        out, err = (f.seek(0) or f.read() for f in p.outputs)
        how = {"exitcode": p.returncode} if p.returncode >= 0 else {"signal": -p.returncode}
        data = {"out-data": base64.b64encode(out).decode(), "err-data": base64.b64encode(err).decode()}
        return {"exited": True, **how, **{k: v for k, v in data.items() if v}}

    def below(self, path):
        return self.root / path.lstrip("/")

    def guest_file_open(self, path, mode="r"):
        self.files[len(self.files) + 1000] = open(self.below(path), mode + "b")  # noqa: SIM115
        return len(self.files) + 999

    def guest_file_read(self, handle, count):
        data = self.files[handle].read(count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": len(data) < count}

    def guest_file_write(self, handle, buf_b64):
        data = base64.b64decode(buf_b64)
        self.files[handle].write(data)
        return {"count": len(data), "eof": False}

    def guest_file_flush(self, handle):
        self.files[handle].flush()
        return {}

    def guest_file_close(self, handle):
        self.files[handle].close()
        return {}

    guest_info = {"version": "7.2", "supported_commands": []}
    guest_get_host_name = {"host-name": "web1"}
    guest_get_timezone = {"zone": "CET", "offset": 3600}
    guest_get_osinfo = {"id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 12 (bookworm)", "machine": "x86_64",
                        "version-id": "12", "version": "12 (bookworm)", "kernel-release": "6.1.0", "kernel-version": "#1 SMP"}
    guest_get_users = [{"user": "root", "login-time": 1700000000.25}]
    guest_get_disks = [{"name": "/dev/vda", "partition": False, "dependencies": [], "address": {"serial": "s1", "bus-type": "virtio"}}]
    guest_get_fsinfo = [
        {"name": "vda1", "mountpoint": "/", "type": "ext4", "total-bytes": 4096, "used-bytes": 1024,
         "disk": [{"serial": "s1", "dev": "/dev/vda1"}]},
        {"name": "tmpfs", "mountpoint": "/run", "type": "tmpfs", "disk": []}]
    guest_network_get_interfaces = [{"name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses": [
        {"ip-address-type": "ipv4", "ip-address": "192.0.2.7", "prefix": 24}]}]
    guest_get_time = 1700000000 * 10**9

    def guest_fstrim(self, minimum=0):
        return {"paths": [{"path": "/", "trimmed": 4096, "minimum": minimum}]}

    guest_fsfreeze_freeze = guest_fsfreeze_thaw = 2

    def guest_get_vcpus(self):
        return [{"logical-id": n, "online": online, "can-offline": n > 0} for n, online in enumerate(self.vcpus)]

    def guest_set_vcpus(self, vcpus):
        for v in vcpus:
            self.vcpus[v["logical-id"]] = v["online"]
        return len(vcpus)

    def guest_fsfreeze_freeze_list(self, mountpoints):
        return len(mountpoints)

    def guest_set_time(self, time=None):
        return {}

    def guest_set_user_password(self, username, password, crypted):
        return {}

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(10)
        for p in self.programs.values():
            if p.poll() is None:
                p.kill()
            p.wait()
            for f in p.outputs:
                f.close()
        for f in self.files.values():
            f.close()


def vm(fake, name="web1", words="", **more):
    """Define and start a VM whose agent is behind the socket agent.sock. Returns the agent."""
    agent = Agent(fake.tmp / "agent.sock", fake.tmp)
    fake.define(name, cmdline=f"agent-after=0 agent-socket={fake.tmp}/agent.sock {words}", guest_agent=True, **more)
    fake.cairn("start", name)
    return agent
