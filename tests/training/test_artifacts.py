import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mpo.study.checksums import Damaged
from mpo.training.artifacts import read_critic, read_policies, write_policies, write_rows

ROWS = [
    {
        "integer": i - 20,
        "float": float("nan") if i == 3 else i / 3,
        "mixed": 1 if i < 2 else 2.5,
        "missing": None if i % 3 == 0 else 1.5 * i,
        "missing integer": None if i == 1 else 2**60 + i,
        "nothing": None,
        "truth": i % 3 == 0,
        "text": "é" * i,
        "missing text": None if i == 4 else "a",
    }
    for i in range(43)
]


@pytest.mark.parametrize("count", [1, 2, 43])
def test_rows_become_the_file_that_pyarrow_makes_of_them(tmp_path, count):
    write_rows(tmp_path / "own", ROWS[:count])
    table = pa.Table.from_pylist(ROWS[:count])
    pq.write_table(table, tmp_path / "theirs", compression="zstd")
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_writing_rows_does_not_import_pandas(tmp_path):
    code = (
        "import sys; from pathlib import Path; from mpo.training.artifacts import write_rows; "
        "rows = [{'phase': 'final', 'episode': 0, 'return': 1.5, 'terminated': True, 'loss': None}]"
        " + [{'phase': 'final', 'episode': 1, 'return': 2, 'terminated': False, 'loss': 0.5}]; "
        f"write_rows(Path({str(tmp_path / 'rows')!r}), rows); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("read", [read_policies, read_critic])
def test_reading_policies_runs_no_code(tmp_path, read):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path, network = tmp_path / "policies.pt", {"weight": torch.ones(1, 3)}
    write_policies(path, [10], [network], network)
    content = torch.load(path, weights_only=True)
    assert read(path)
    torch.save(content | {"trap": Trap()}, path)
    with pytest.raises(Damaged, match="policies.pt"):
        read(path)
    assert not (tmp_path / "sprung").exists()
