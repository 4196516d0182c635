"""The batch script of the documentation, run with stand-ins for SLURM and for the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
STAND_INS = {
    "scontrol": '[ "$1" = show ] && printf "node7\\nnode8\\n" || echo "$*" >> requeued',
    "srun": """
echo "$1 $2" > options
worst=0
for task in 0 1 2 3; do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "${@:3}"
  code=$?
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
""",
    "python": """
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $OMP_NUM_THREADS $*" >> called
mkdir -p run
[ -z "$STATUS" ] || printf '{\n "status": "%s"\n}' "$STATUS" > run/run.json
exit $((CODE ? CODE + RANK : 0))
""",
}


def submit(folder: Path, *, status: str, code: int) -> int:
    text = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!.*?MASTER_ADDR.*?)```", text, flags=re.DOTALL)
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "40123",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NTASKS": "4",
        "SLURM_CPUS_PER_TASK": "8",
        "STATUS": status,
        "CODE": str(code),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.returncode


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_batch_script(tmp_path: Path) -> None:
    assert submit(tmp_path, status="interrupted", code=130) == 133
    assert (tmp_path / "requeued").read_text() == "requeue 40123\n"
    assert (tmp_path / "options").read_text() == "--kill-on-bad-exit=1 --cpus-per-task=8\n"
    called = (tmp_path / "called").read_text().splitlines()
    places = [line.split(" -m ")[0] for line in called]
    assert places == [f"{task} {task % 2} 4 node7:20123 8" for task in range(4)]
    assert called[0].endswith("pretrain --data ukb.store --out run --quiet")
    # Called again, a job that fails before its first step does not come back for ever.
    (tmp_path / "requeued").unlink()
    os.utime(tmp_path / "run" / "run.json", (0, 0))
    assert submit(tmp_path, status="", code=1) == 4
    assert (tmp_path / "called").read_text().splitlines()[-1].endswith("--quiet --resume")
    assert not (tmp_path / "requeued").exists()
    assert submit(tmp_path, status="finished", code=0) == 0
    assert not (tmp_path / "requeued").exists()
