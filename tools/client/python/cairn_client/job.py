"""Jobs, which take longer than a command."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .wire import decode, error_of

if TYPE_CHECKING:
    from .aio import AsyncConnection
    from .sync import Connection

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecResult:
    """How a program in the guest has ended, and its output, of which the daemon keeps 64 KiB. exit_status: as of
    `cairn exec`: 128 and the signal's number if a signal has killed the program."""

    exit_status: int
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool


def exec_arguments(vm: str, arg: Sequence[str], env: Mapping[str, str] | Sequence[str] | None, folder: str | None,
                   input_data: bytes | str | None, timeout: int | None) -> dict[str, Any]:
    """Return the arguments of agent-exec."""
    if isinstance(arg, str):  # which is a sequence of str, too
        raise TypeError(f"arg is a list, such as ['sh', '-c', {arg!r}]")
    if isinstance(env, Mapping):
        env = [f"{name}={value}" for name, value in env.items()]
    data = input_data.encode() if isinstance(input_data, str) else input_data
    return {"vm": vm, "arg": list(arg), "env": env and list(env), "folder": folder,
            "input-data": None if data is None else base64.b64encode(data).decode(), "timeout": timeout}


class Output:
    """Pages of a program's output."""

    def __init__(self) -> None:
        self.stdout = self.stderr = b""
        self.next: dict[str, int] = {}
        self.more = True

    def add(self, page: dict[str, Any]) -> None:
        for name in ("stdout", "stderr"):
            data = page[name].encode() if name in page else base64.b64decode(page.get(name + "-base64", ""))
            setattr(self, name, getattr(self, name) + data)
            self.next[name + "-from"] = page[name + "-next"]
        self.more = page["more"]

    def result(self, ended: dict[str, Any]) -> ExecResult:
        signal = ended.get("signal")
        status = ended["exit-status"] if signal is None else 128 + signal
        return ExecResult(exit_status=status, signal=signal, stdout=self.stdout, stderr=self.stderr,
                          truncated=ended["truncated"])


def _result(entry: dict[str, Any], of: type[R]) -> R:
    if "error" in entry:
        raise error_of({"class": entry["error-class"], "desc": entry["error"]})
    return decode(of, entry.get("result", {}))


class Job(Generic[R]):
    """A job of a Client."""

    def __init__(self, client: Connection, id: str, result: type[R]) -> None:
        self.client, self.id, self._type = client, id, result

    def entry(self) -> dict[str, Any]:
        """Return what query-jobs says of the job."""
        return self.client.job_entry(self.id)

    def wait(self, timeout: float | None = None, dismiss: bool = True) -> R:
        """Wait for the end of the job and return its result, or raise its error. timeout: seconds; then TimeoutError is
        raised, and the job continues. dismiss: let the daemon forget the job."""
        entry = self.client.job_end(self.id, timeout)
        if dismiss:
            self.dismiss()
        return _result(entry, self._type)

    def cancel(self) -> None:
        self.client.call("job-cancel", {"id": self.id})

    def dismiss(self) -> None:
        self.client.call("job-dismiss", {"id": self.id})


class AsyncJob(Generic[R]):
    """A job of an AsyncClient. Many jobs can be awaited at once."""

    def __init__(self, client: AsyncConnection, id: str, result: type[R]) -> None:
        self.client, self.id, self._type = client, id, result

    async def entry(self) -> dict[str, Any]:
        """Return what query-jobs says of the job."""
        return await self.client.job_entry(self.id)

    async def wait(self, dismiss: bool = True) -> R:
        """Wait for the end of the job and return its result, or raise its error.
        dismiss: let the daemon forget the job."""
        entry = await self.client.job_end(self.id)
        if dismiss:
            await self.dismiss()
        return _result(entry, self._type)

    async def cancel(self) -> None:
        await self.client.call("job-cancel", {"id": self.id})

    async def dismiss(self) -> None:
        await self.client.call("job-dismiss", {"id": self.id})
