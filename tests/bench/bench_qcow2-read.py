"""qcow2-read: random 4 KiB reads of a qcow2 image, depth 32, on a tmpfs and with O_DIRECT on disk."""

from imgbench import in_place


def run(bench):
    in_place(bench, False, {"shm": (3.0, 2.0), "disk": (0.97, 2.0)})
