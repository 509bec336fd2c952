"""qcow2-write: 4 KiB writes in place into a qcow2 image, depth 32, on a tmpfs and with O_DIRECT on disk."""

from imgbench import in_place


def run(bench):
    in_place(bench, True, {"shm": (3.0, 2.0), "disk": (0.97, 2.0)})
