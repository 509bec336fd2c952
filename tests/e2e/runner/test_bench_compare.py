"""tests/bench: the history of a benchmark's rows, and the comparison of two commits.

The figures are made up: a commit's build folder holds them, and a benchmark reads one in each run."""

import importlib.util
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT

BENCH = os.path.join(ROOT, "tests", "bench")
FAKE = '''"""fake: figures from a file."""


def run(bench):
    with open(bench.build + "/figures") as f:
        figures = f.read().split()
    with open(bench.build + "/figures", "w") as f:
        f.write(" ".join(figures[1:]))
    with open(bench.build + "/../../turns" if "bench-ref" not in bench.build else bench.build + "/../../../../../turns", "a") as f:
        f.write("ref " if "bench-ref" in bench.build else "new ")
    bench.compare("a time", "ms", lambda: float(figures[0]), 10, "a limit", 1, rounds=1)
    bench.compare("a rate", "1/s", lambda: 1000 / float(figures[0]), 10, "a limit", 1, rate=True, rounds=1,
                  limit=lambda: 400, limit_name="the disk")
'''
# Each commit has a helper of its own, which is named after its first figure.
MAKEFILE = "helpers guests: all\nall:\n\t@mkdir -p build/helpers && cp figures build/figures && touch build/helpers/$$(cut -d ' ' -f 1 figures)\n"


def module_load(name):
    sys.path.insert(0, BENCH)
    try:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", os.path.join(BENCH, f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(BENCH)


@pytest.fixture(scope="module")
def compare():
    return module_load("compare")


@pytest.fixture(scope="module")
def benchlib():
    return module_load("benchlib")


def git(tree, *args):
    return subprocess.check_output(["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b", *args], text=True).strip()


@pytest.fixture
def tree(tmp_path):
    """A repository with one commit: the benchmarks' programs, and a build that copies figures."""
    tree = tmp_path / "tree"
    for name in ("bench/run.py", "bench/compare.py", "bench/history.py", "bench/benchlib.py", "e2e/guestlib.py", "hostkind.sh"):
        (tree / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.join(ROOT, "tests", name), tree / "tests" / name)
    (tree / "tests/bench/bench_fake.py").write_text(FAKE)
    (tree / "Makefile").write_text(MAKEFILE)
    (tree / ".gitignore").write_text("/build/\n__pycache__/\n")
    git(tmp_path, "init", "-q", tree)
    return tree


def commit(tree, figures):
    (tree / "figures").write_text(" ".join(map(str, figures)))
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "figures")
    subprocess.run(["make", "-s", "-C", tree], check=True)
    return git(tree, "rev-parse", "HEAD")


def run(tree, program, *args):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN_")}
    return subprocess.run([tree / "tests/bench" / program, *args], cwd=tree, env=env, capture_output=True, text=True, timeout=100)


def rows(tree):
    return [json.loads(line) for line in (tree / "build/bench-history.jsonl").read_text().splitlines()]


def test_history_keeps_rows_of_all_runs_with_commit_and_machine(tree):
    name = commit(tree, [5, 6])
    r = run(tree, "run.py", "--only", "fake")
    assert r.returncode == 0 and re.search(r"a rate +200 .* yes +400 +the disk +0\.50$", r.stdout, re.M), r.stdout
    assert re.search(r" holds  limit  limit is  of limit  on$", r.stdout, re.M) and re.search(r"a time .* yes$", r.stdout, re.M), r.stdout
    (tree / "Makefile").write_text(MAKEFILE + "# changed\n")
    assert run(tree, "run.py", "--only", "fake").returncode == 0
    kept = rows(tree)
    assert [(r["case"], r["ours"], r["rate"], r["commit"]) for r in kept] == [
        ("a time", 5, False, name), ("a rate", 200, True, name), ("a time", 6, False, name + "+"), ("a rate", round(1000 / 6, 6), True, name + "+")]
    assert all(r["machine"]["kernel"] == os.uname().release and r["machine"]["cpus"] and r["load"] >= 0 for r in kept)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r["time"]) for r in kept)
    last = [json.loads(line) for line in (tree / "build/bench.json").read_text().splitlines()]
    assert [r["ours"] for r in last] == [6, round(1000 / 6, 6)] and "commit" not in last[0]
    assert [(r["limit"], r["limit_name"], r["of_limit"]) for r in kept] == [
        (None, "", None), (400, "the disk", 0.5), (None, "", None), (400, "the disk", 0.417)]


@pytest.mark.parametrize("figures,time,rate", [
    ((9, 9.1, 9.2, 8.9, 8.8), "faster", "faster"), ((11, 11.2, 10.9, 11.1, 11.3), "slower", "slower"),
    ((10, 10.1, 9.8, 10.2, 9.9), "same", "same")])
def test_comparison_measures_commits_by_turns_and_names_changed_rows(tree, figures, time, rate):
    ref = commit(tree, [10, 10.2, 9.9, 10.1, 9.8])
    new = commit(tree, figures)
    r = run(tree, "compare.py", "--ref", ref, "--only", "fake", "--rounds", "5")
    assert r.returncode == 0, r.stderr
    assert re.search(rf"a time .* {time}$", r.stdout, re.M) and re.search(rf"a rate .* {rate}$", r.stdout, re.M), r.stdout
    assert f"before: {ref[:12]}, after: {new[:12]}; 5 rounds" in r.stdout
    assert ("0 of 2" if time == "same" else "2 of 2") + " rows changed" in r.stdout
    assert {p.name for p in (tree / "build/bench-ref" / ref[:12] / "build/helpers").iterdir()} == {"10", str(figures[0])}
    assert (tree.parent / "turns").read_text().split() == ["ref", "new", "new", "ref", "ref", "new", "new", "ref", "ref", "new"]
    assert [row["commit"] for row in rows(tree)].count(ref) == [row["commit"] for row in rows(tree)].count(new) == 10


def test_comparison_goes_on_when_a_commit_lacks_a_row(tree):
    ref = commit(tree, [10] * 3)  # its benchmark fails from the fourth round on
    commit(tree, [5] * 5)
    r = run(tree, "compare.py", "--ref", ref, "--only", "fake", "--rounds", "5")
    assert r.returncode == 0 and re.search(r"a time .* unknown$", r.stdout, re.M) and "fake: failed with" in r.stderr, r.stdout + r.stderr


@pytest.mark.parametrize("args,says", [(("--ref", "none"), "no commit 'none'"), (("--ref", "HEAD", "--rounds", "4"), "5 rounds at least")])
def test_comparison_refuses_wrong_arguments(tree, args, says):
    commit(tree, [1])
    r = run(tree, "compare.py", *args)
    assert r.returncode == 2 and says in r.stderr


def test_comparison_says_that_the_commit_cannot_be_built(tree):
    (tree / "Makefile").write_text("all:\n\ttest -e build\n")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "broken")
    commit_before = git(tree, "rev-parse", "HEAD")
    (tree / "Makefile").write_text(MAKEFILE)
    commit(tree, [1])
    r = run(tree, "compare.py", "--ref", commit_before, "--only", "fake")
    assert r.returncode == 1 and f"cannot build {commit_before[:12]}" in r.stderr and "Traceback" not in r.stderr


def test_p_values_are_those_of_the_table(compare):
    """Critical values of U for p < 0.01 (two-sided): 0 for 5 figures each, 4 for 7, 11 for 9."""
    for n, critical in ((5, 0), (7, 4), (9, 11)):
        counts = compare.orders(n, n)
        total = sum(counts)
        assert 2 * sum(counts[:critical + 1]) / total < 0.01 < 2 * sum(counts[:critical + 2]) / total
    for n, m in itertools.product(range(1, 5), repeat=2):
        by_hand = [0] * (n * m + 1)
        for places in itertools.combinations(range(n + m), n):
            by_hand[int(compare.wins(places, set(range(n + m)) - set(places)))] += 1
        assert compare.orders(n, m) == by_hand


def test_equal_commits_rarely_differ(compare):
    dice = random.Random(19)
    draw = lambda at: [dice.gauss(at, 1) for _ in range(7)]
    assert sum(compare.verdict(draw(50), draw(50), False) != "same" for _ in range(2000)) < 2000 * 0.015
    assert all(compare.verdict(draw(50), draw(60), False) == "slower" for _ in range(100))


def test_changes_below_one_percent_are_no_changes(compare):
    assert compare.verdict([1000.0] * 7, [1005.0] * 7, False) == "same"
    assert compare.verdict([1000.0] * 7, [1015.0] * 7, True) == "faster"
    assert compare.verdict([0.0] * 7, [1.0] * 7, False) == "slower"


@pytest.mark.parametrize("rate,limit,name,kept", [
    (False, 2, "the kernel", (2, "the kernel", 0.5)), (True, lambda: 8, "the disk", (8, "the disk", 0.5)),
    (False, "peer", "", (3, "a peer", 0.75)), (False, None, "", (None, "", None)), (False, 0, "nothing", (0, "nothing", 0.0))])
def test_row_says_how_near_it_is_to_its_limit(benchlib, rate, limit, name, kept):
    bench = benchlib.Bench("a", "build")
    bench.compare("b", "s", lambda: 4, lambda: 3, "a peer", 1, rate=rate, rounds=3, limit=limit, limit_name=name)
    assert [tuple(r[k] for k in ("limit", "limit_name", "of_limit")) for r in bench.rows] == [kept]


def limit_program(name, *args):
    return subprocess.check_output([os.path.join(BUILD, "helpers", name), *args], text=True, timeout=60)


def test_limit_of_kvm_is_measured(kvm):
    assert limit_program("kvm_limit", "start") == "A"
    assert int(limit_program("kvm_limit", "pause")) > 0 and int(limit_program("kvm_limit", "revert", "16", "1")) > 0


def test_limit_of_the_page_cache_is_measured(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    assert int(limit_program("cached_limit", file, "read", "100")) > 0 and not any(file.read_bytes())
    assert int(limit_program("cached_limit", file, "write", "100")) > 0 and any(file.read_bytes())


def test_row_has_no_limit_without_the_program_of_the_limit(benchlib, tmp_path):
    bench = benchlib.Bench("a", str(tmp_path))
    bench.compare("b", "ms", lambda: 4, 3, "a peer", 1, limit=lambda: benchlib.kvm_limit(bench, "pause"), limit_name="KVM")
    assert [bench.rows[0][k] for k in ("limit", "limit_name", "of_limit")] == [None, "", None]


def test_limit_of_measured_pairs_is_the_median(benchlib):
    bench = benchlib.Bench("a", "build")
    bench.pairs("b", "s", [(4, 3)] * 3, "a peer", 1, limit=[1, 90, 3], limit_name="the kernel")
    assert (bench.rows[0]["limit"], bench.rows[0]["of_limit"]) == (3, 0.75)


def test_one_outlier_makes_no_change(compare):
    assert compare.verdict([10, 11, 12, 13, 14, 15, 16], [10.5, 11.5, 12.5, 13.5, 14.5, 15.5, 900], False) == "same"


def test_table_tells_rows_of_one_commit(compare):
    row = {"name": "a", "case": "b", "unit": "ms", "ours": 1.0, "rate": False, "of_limit": 0.5}
    out = io.StringIO()
    assert compare.table([(1, row)] * 7, out) == 0 and re.search(r" 0\.50 +unknown$", out.getvalue(), re.M)
