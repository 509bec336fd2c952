"""The tests of containers with Docker's own default profile, which libseccomp turns into a filter."""

import os
import subprocess

import pytest

import guestlib
from test_container import *  # noqa: F401, F403 (its tests run again)
from test_container import Container


@pytest.fixture(scope="session")
def profile():
    script = os.path.join(guestlib.ROOT, "tests/helpers/docker_profile.sh")
    return subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture
def container(tmp_path, profile):
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a container")
    return Container(tmp_path, "docker", profile)
