"""archivelib: runs cairn-archive as the daemon does."""

import fcntl
import json
import os
import subprocess

from conftest import BUILD

PROGRAM = os.path.join(BUILD, "cairn-archive")


class Archive:
    """One run. Fds keep their numbers, because the specification refers to them."""

    def __init__(self, verb, spec, fds, before=lambda: None, program=PROGRAM, **how):
        def prepare():
            os.dup2(memory, 3, inheritable=True)
            before()
        memory = os.memfd_create("spec")
        os.write(memory, json.dumps(spec).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        self.process = subprocess.Popen(
            [program, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[3, *fds],
            preexec_fn=prepare, **how)
        os.close(memory)
        for fd in fds:
            os.close(fd)

    def line(self):
        text = self.process.stdout.readline()
        return json.loads(text) if text else None

    def until(self, *keys):
        while True:
            line = self.line()
            if line is None or any(key in line for key in keys):
                return line

    def end(self, word=b""):
        """Return the last line and the exit status."""
        last = None
        out, _ = self.process.communicate(word)
        for text in out.splitlines():
            last = json.loads(text)
        return last, self.process.returncode


def high(path, flags=os.O_RDONLY):
    """Open a file at a high fd number, which no other file of the program has."""
    fd = os.open(path, flags, 0o600)
    number = fcntl.fcntl(fd, fcntl.F_DUPFD, 20)
    os.close(fd)
    return number


def export(to, definition, files, compress="zstd", before=lambda: None, **more):
    """files: (name, path, further keys of the specification). before: called in the new process."""
    out = high(to, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    fds = [out]
    spec = {"output": out, "compress": compress, "definition": definition, "files": [], **more}
    for name, path, extra in files:
        fds.append(high(path))
        entry = {"name": name, **extra}
        if "snapshot" in more:
            entry["layers"] = [{"fd": fds[-1], "format": "qcow2"}]
        else:
            entry["fd"] = fds[-1]
        spec["files"].append(entry)
    return Archive("export", spec, fds, before)


def clear(folder, name):
    return Archive("clear", {"folder": folder, "name": name}, [])


def take(path, folder=None, name="vm", how=None, **more):
    """Run an import; folder None: only list the archive. how: for Popen."""
    fds = [high(path)]
    spec = {"input": fds[0], "name": name, **more}
    if folder is not None:
        spec["folder"] = str(folder)
    return Archive("import", spec, fds, **(how or {}))
