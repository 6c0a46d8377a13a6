"""Stands in for a training process: writes a log at once, or comes to a bad end, as the spec's method says.

``good`` finishes. ``crash`` ends with a message, ``killed`` kills itself midway; ``slow`` takes a tenth of a second a
step, going on where its log ends. ``bad-worker`` kills the process that started it, the first time. Every process adds
a line to the file that ``ATTEMPTS`` names.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

spec_path = Path(sys.argv[1])
spec = json.loads(spec_path.read_text())
log_path = spec_path.parent / "log.jsonl"
name = f"{spec['scene']} {spec['label']} {spec['seed']}"
attempts = Path(os.environ["ATTEMPTS"])


def write(kind, **values):
    with log_path.open("a") as log:
        log.write(json.dumps({"kind": kind, **values}, separators=(",", ":")) + "\n")


def step(number, first):
    seconds = {"render": 0.5, "backward": 0.25, "update": 0.25}
    write("step", step=number, seconds=seconds, other_seconds=1.0, first=first)
    write("evaluation", step=number, num_gaussians=100, psnr=10.0 + number, ssim=0.5, lpips=None)


taken = log_path.read_text().count('"kind":"step"') if log_path.exists() else 0
with attempts.open("a") as file:
    file.write(f"{name}, {taken} steps before\n")

if spec["method"] == "crash":
    sys.exit("Something the method could not do.")
if spec["method"] == "bad-worker" and attempts.read_text().count(name) == 1:
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit()
if taken:
    write("resume", step=taken)
else:
    start = {"initializer_seconds": 0.0, "loading_seconds": 0.0, "training_views": 7, "held_out_views": 2}
    write("start", **start, machine="fake", commit="")
    write("evaluation", step=0, num_gaussians=100, psnr=10.0, ssim=0.5, lpips=None)
parent = os.getppid()
for number in range(taken + 1, spec["steps"] + 1):
    if spec["method"] == "slow":
        time.sleep(0.1)
        if os.getppid() != parent:
            sys.exit()
    step(number, number == taken + 1)
    if spec["method"] == "killed" and number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
write("end", status="ok", reason="", peak_memory_mib=50.0)
