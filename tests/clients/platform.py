#!/usr/bin/python3
"""A small sandbox platform on Cairn's Python client: boot a VM once, fork many sandboxes from it while it runs, execute
a line in each, collect the answers, and destroy all. platform.py SOCKET KERNEL COUNT prints a line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter

from cairn_client import AsyncClient, Busy, Definition, Event, NotFound, ResumeEvent, ShutdownEvent, VmFigures, VmStateChangeEvent, WrongState

TEMPLATE = "template"


class Console:
    """The guest's serial port, where a bare guest takes a command in each line and ends its answer with `ok`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.rest = sock, b""
        self.loop = asyncio.get_running_loop()

    async def line(self) -> str:
        while b"\n" not in self.rest:
            data = await self.loop.sock_recv(self.sock, 65536)
            if not data:
                raise EOFError("the guest is gone")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode().rstrip("\r")

    async def run(self, command: str) -> list[str]:
        await self.loop.sock_sendall(self.sock, f"{command}\n".encode())
        lines: list[str] = []
        while (line := await self.line()) != "ok":
            lines.append(line)
        return lines

    async def ready(self) -> None:
        """Wait until the guest reads commands: it has booted, or goes on after a fork."""
        await self.loop.sock_sendall(self.sock, b"\necho ready\n")
        while await self.line() != "ready":
            pass
        await self.line()

    def close(self) -> None:
        self.sock.close()


class Platform:
    def __init__(self, client: AsyncClient, kernel: str) -> None:
        self.client = client
        self.kernel = kernel
        self.seen: Counter[str] = Counter()

    async def watch(self) -> None:
        """Count events by the VM's state, as a dashboard would."""
        event: Event
        async for event in self.client.events():
            if isinstance(event, VmStateChangeEvent):
                self.seen[event.state] += 1
            elif isinstance(event, (ResumeEvent, ShutdownEvent)):
                self.seen[event.name] += 1

    async def boot(self) -> None:
        definition: Definition = {"name": TEMPLATE, "memory": "32M", "vcpus": 1, "boot": {"kernel": self.kernel}}
        made = await self.client.vm_define(definition)
        assert made.created and made.warnings == []
        await self.client.vm_start(TEMPLATE)
        console = Console(await self.client.console(TEMPLATE))
        await console.ready()
        console.close()

    async def fork(self, count: int) -> list[str]:
        job = await self.client.vm_fork(TEMPLATE, name="box", count=count)
        result = await job.wait()
        assert result.count == count and result.disks == []
        self.pause_ns = result.pause
        return [f"box-{i + 1}" for i in range(count)]

    async def execute(self, name: str) -> str:
        """Run a line in a sandbox, and return what the guest says."""
        console = Console(await self.client.console(name, history=False))
        try:
            await console.ready()
            answer, = await console.run(f"echo hello-from-{name}")
            return answer
        finally:
            console.close()

    async def destroy(self, name: str) -> None:
        await self.client.vm_destroy(name)
        with contextlib.suppress(NotFound):  # a transient VM goes with its process
            await self.client.vm_undefine(name)

    async def all_names(self) -> list[str]:
        names: list[str] = []
        page = await self.client.vm_list(brief=True)
        names += [vm.name for vm in page.vms]
        while page.next is not None:
            page = await self.client.vm_list(brief=True, after=page.next)
            names += [vm.name for vm in page.vms]
        return names

    async def figures(self, name: str) -> VmFigures:
        """Return the facts that the VM's process reports. A stopped process reports nothing: ask again."""
        while True:
            vm = await self.client.vm_info(name)
            if vm.cpu_time is not None:
                return vm

    async def refusals(self) -> list[str]:
        """Each error has a class."""
        seen = []
        try:
            await self.client.vm_info("no-such-vm")
        except NotFound as e:
            seen.append(e.error_class)
        try:
            await self.client.vm_undefine(TEMPLATE)
        except (WrongState, Busy) as e:
            seen.append(e.error_class)
        return seen


async def run(path: str, kernel: str, count: int) -> dict[str, object]:
    async with AsyncClient(path) as client:
        platform = Platform(client, kernel)
        watcher = asyncio.create_task(platform.watch())
        await platform.boot()
        refusals = await platform.refusals()

        begin = time.monotonic()
        names = await platform.fork(count)
        forked = time.monotonic()
        # Each sandbox has a console of its own, so all of them work at once.
        answers = await asyncio.gather(*map(platform.execute, names))
        executed = time.monotonic()
        figures = [await platform.figures(name) for name in names[:3]]

        for name in [*names, TEMPLATE]:
            await platform.destroy(name)
        left = await platform.all_names()
        watcher.cancel()
        return {
            "answers": dict(zip(names, answers)), "left": left, "refusals": refusals, "states": dict(platform.seen),
            "words": [f.word for f in figures], "cpu": [f.cpu_time is not None for f in figures],
            "pause-ns": platform.pause_ns, "fork-s": forked - begin, "execute-s": executed - forked,
        }


def main() -> None:
    path, kernel, count = sys.argv[1:]
    print(json.dumps(asyncio.run(run(path, kernel, int(count)))))


if __name__ == "__main__":
    main()
