"""Stands in for the process of a part, and does what the part's name says; each adds its name to ``attempts``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

name, told, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
out = Path(json.loads(told.read_text())["out"])
with (out / "attempts").open("a") as attempts:
    attempts.write(f"{name}\n")
print(f"this is {name}")
if name == "crash":
    sys.exit("Something that the part could not do.")
if name == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if name == "slow":
    late = f"import time, pathlib; time.sleep(2); pathlib.Path({str(out / 'late')!r}).touch()"
    subprocess.Popen([sys.executable, "-c", late])
    time.sleep(60)
if name == "cannot":
    answer.write_text(json.dumps({"undecided": "There is no such file here."}))
else:
    answer.write_text(json.dumps({"numbers": {"value": float("nan") if name == "odd" else 1.0}}))
