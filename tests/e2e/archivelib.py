"""archivelib: runs cairn-archive as the daemon does."""

import fcntl
import hashlib
import io
import json
import os
import subprocess
import tarfile

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


def scattered(path, definition, name, blocks):
    """Write an archive with one file that has a byte of data in each of so many blocks of 4 KiB, as a sparse entry."""
    sums, manifest = {}, json.dumps({"format": 1, "definition": definition, "files": [
        {"name": name, "size": blocks << 12, "data": blocks, "format": "raw"}]}).encode()
    sums["manifest.json"] = hashlib.sha256(bytes(8) + manifest).hexdigest()
    sums[name] = hashlib.sha256(b"".join(i.to_bytes(8, "big") + b"x" + bytes(4095) for i in range(blocks))).hexdigest()
    runs = f"{blocks + 1}\n" + "".join(f"{i << 12}\n1\n" for i in range(blocks)) + f"{blocks << 12}\n0\n"
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(blocks << 12)}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as t:
        for entry, data, headers in (
                ("manifest.json", manifest, {}), (name, runs.encode() + bytes(-len(runs) % 512) + b"x" * blocks, sparse),
                ("sums.json", json.dumps({"sha256": sums}).encode(), {})):
            info = tarfile.TarInfo(entry)
            info.size, info.pax_headers = len(data), headers
            t.addfile(info, io.BytesIO(data))
