"""Freed memory is kept by the process."""

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS_OF_TEN_BLOCKS = """
import resource
from tgt_ray.core.memory import keep_freed_memory
{call}
import numpy as np
np.ones(4_000_000)  # 32 MB: the first one must come from the system
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc")
def test_large_blocks_are_used_again():
    def page_faults(call: str) -> int:
        script = PAGE_FAULTS_OF_TEN_BLOCKS.format(call=call)
        return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)

    assert page_faults("keep_freed_memory()") < page_faults("") / 10
