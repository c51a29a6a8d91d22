"""What importing the package sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALLOCATE = """
import downpour, torch
tensor = torch.empty(16 << 20, dtype=torch.uint8)
mapping = None
for line in open("/proc/self/smaps"):
    name, *rest = line.split()
    if not name.endswith(":"):
        begin, end = (int(each, 16) for each in name.split("-"))
        mapping = begin <= tensor.data_ptr() < end
    elif mapping and name == "VmFlags:":
        print("hg" in rest)
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
@pytest.mark.parametrize(("typed", "huge"), [({}, "True"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "False")])
def test_large_tensors_are_in_huge_pages_unless_told_otherwise(typed: dict[str, str], huge: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE],
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), **typed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [huge]
