"""cairn-root with random layers, against a model that unpacks each layer over the ones before it."""

import random

import pytest

from rootlib import Layout, cat, entry, link, listing, make, tar

NAMES = "abc"


class Model:
    """Paths with what they have: None for a folder, a list with one text for a file, which hard links share."""

    def __init__(self):
        self.files, self.layer, self.now = {}, {}, 0

    def below(self, path):
        return [p for p in self.files if p.startswith(path + "/")]

    def remove(self, path):
        for p in [*self.below(path), path]:
            self.files.pop(p, None)
            self.layer.pop(p, None)

    def put(self, path, what):
        parts = path.split("/")
        for i in range(1, len(parts)):
            parent = "/".join(parts[:i])
            if self.files.get(parent, 0) is not None:
                self.remove(parent)
                self.files[parent] = None
                self.layer[parent] = -1  # until an entry says otherwise
        if what is not None or self.files.get(path, 0) is not None:
            self.remove(path)
        self.files[path] = what
        self.layer[path] = self.now

    def hide(self, path):
        """Remove what earlier layers have put there and below."""
        for p in sorted([*self.below(path), path], reverse=True):
            if p in self.files and self.layer[p] < self.now and not self.below(p):
                self.remove(p)

    def hide_below(self, path):
        for p in sorted(self.below(path), reverse=True):
            if p in self.files and self.layer[p] < self.now and not self.below(p):
                self.remove(p)


def path(rnd):
    return "/".join(rnd.choice(NAMES) for _ in range(rnd.randrange(1, 5)))


def action(rnd, model):
    """Return an entry, and apply it to the model."""
    name, kind = path(rnd), rnd.randrange(10)
    if kind < 4:
        text = str(rnd.random())
        model.put(name, [text])
        return entry(name, text.encode())
    if kind < 6:
        model.put(name, None)
        return entry(name + "/")
    folder, _, last = name.rpartition("/")
    if kind < 8:
        files = sorted(p for p, what in model.files.items() if what)
        if not files:
            return action(rnd, model)
        to = rnd.choice(files)
        model.put(name, model.files[to])
        return link(name, to)
    if kind < 9:
        model.hide(name)
        return entry(f"{folder}/.wh.{last}" if folder else f".wh.{last}")
    if model.files.get(name, 0) is None:
        model.hide_below(name)
    return entry(name + "/.wh..wh..opq")


@pytest.mark.parametrize("seed", range(30))
def test_random_layers(tmp_path, seed):
    rnd, model, layout = random.Random(seed), Model(), Layout(tmp_path / "layout")
    layers = []
    for model.now in range(rnd.randrange(1, 6)):
        layers.append(tar(*[action(rnd, model) for _ in range(rnd.randrange(1, 25))]))
    layout.add(layout.manifest(*layers))
    image = make(layout.path, tmp_path / "cache")["image"]
    found = listing(image)
    found.pop("/")
    assert {p[1:] for p in found} == set(model.files)
    for p, what in model.files.items():
        assert found["/" + p][0] == ("-" if what else "d"), p
        if what:
            assert cat(image, p) == what[0].encode(), p
