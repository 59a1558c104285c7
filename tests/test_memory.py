"""Freed memory is kept: a block asked for again brings no page faults."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from wsss import process

if sys.argv[1] == "kept":
    process.keep_freed()
before = 0
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep freed memory")
def test_a_kept_block_is_not_faulted_in_again():
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, way], check=True, capture_output=True, text=True).stdout)
        for way in ("given back", "kept")
    )
    assert 4 * kept < given_back, "pages may be small or large"
