"""The page's list of jobs, which node fetches from a daemon that is played."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import ROOT

pytestmark = [pytest.mark.skipif(not shutil.which("node"), reason="needs nodejs")]
RUN = """
import { readFileSync } from "node:fs";
const answers = JSON.parse(readFileSync(0, "utf8")), asked = [];
globalThis.localStorage = { getItem: () => "" };
globalThis.fetch = async (path, { body }) => {
	asked.push(JSON.parse(body).arguments);
	return new Response(JSON.stringify(answers.shift()));
};
const { executeJobs } = await import("./daemon.mjs");
console.log(JSON.stringify({ jobs: (await executeJobs()).map((j) => j.id), asked }));
"""


def page(*ids):
    return {"return": [{"id": i} for i in ids]}


GONE = {"error": {"class": "NotFound", "desc": "after: there is no job 'b' any more"}}


@pytest.mark.parametrize("answers, jobs, asked", [
    ([page("a", "b"), page("c"), page()], ["a", "b", "c"], [{}, {"after": "b"}, {"after": "c"}]),
    ([page("a", "b"), GONE, page("a", "c"), page()], ["a", "c"], [{}, {"after": "b"}, {}, {"after": "c"}]),
], ids=["several pages", "dismissed meanwhile"])
def test_all_pages_of_jobs_are_shown(tmp_path, answers, jobs, asked):
    shutil.copy(os.path.join(ROOT, "tools/web/page/daemon.js"), tmp_path / "daemon.mjs")
    (tmp_path / "run.mjs").write_text(RUN)
    r = subprocess.run(["node", "run.mjs"], cwd=tmp_path, input=json.dumps(answers), capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout) == {"jobs": jobs, "asked": asked}
