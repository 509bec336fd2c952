"""Carry a running VM from one process, or one daemon, to another."""


def carry(d, tmp_path, name="a", moves=("restart-process", "kill", "save", "managedsave")):
    """Do each move with VM `name`, and yield its word when the VM runs again: `reset` resets the VM, `restart-process`
    gives it a new process, `kill` kills the daemon, `save` and `managedsave` are restored at once."""
    for move in moves:
        if move == "kill":
            d.stop(9)
            d.start()
        elif move == "save":
            d.cairn("save", name, str(tmp_path / "saved"))
            d.cairn("restore", str(tmp_path / "saved"))
        else:
            d.cairn(move, name)
        if move == "managedsave":
            d.cairn("start", name)
        yield move
