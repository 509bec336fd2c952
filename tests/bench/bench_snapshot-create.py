"""snapshot-create: a snapshot of an image with 64 GiB allocated."""

from imgbench import ROUNDS, Box


def run(bench):
    with Box(bench, "shm", 256) as box:
        names = {tool: box.create(f"a{i}", "64G", "preallocation=metadata")
                 for i, tool in enumerate((box.ours, "qemu-img"))}

        def once(tool):
            t = box.run(tool, "snapshot", "-c", "s", names[tool])
            box.run("qemu-img", "snapshot", "-d", "s", names[tool])
            return t
        bench.compare("64 GiB mapped", "s", lambda: once(box.ours), lambda: once("qemu-img"), "qemu-img snapshot -c",
                      3.0, rounds=ROUNDS)
