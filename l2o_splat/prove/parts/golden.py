"""Numbers of the original programs of Learn2Splat and ReSplat, replayed from fixtures."""

from __future__ import annotations

import re
from pathlib import Path

from l2o_splat.prove.checkout import last_line, missing_folder, run_python
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided

SYSTEMS = {"learn2splat": "Learn2Splat", "resplat": "ReSplat"}


def claim_of(system: str) -> str:
    return (
        f"Every number of the original {SYSTEMS[system]} in the fixtures is replayed, with this torch on the processor"
    )


def fixtures_in(folder: Path, system: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{system}_*") if path.suffix in (".pt", ".safetensors"))


def missing(setting: Setting) -> str:
    return missing_folder("tests") or ("" if setting.golden else "--golden DIR, a folder of fixtures")


def measure(setting: Setting) -> Numbers:
    """For each fixture whether it was replayed, and what its script said last."""
    found: Numbers = {}
    for system in SYSTEMS:
        found[system] = {}
        for path in fixtures_in(setting.golden, system):
            done = run_python(["-m", f"tests.golden.check_{system}", str(path)])
            failed = re.findall(r"^FAIL +(\S+)", done.stdout, re.MULTILINE)
            found[system][path.name] = {"ok": done.returncode == 0, "said": last_line(done.stdout), "failed": failed}
    return found


def judge(numbers: Numbers) -> list[Judgement]:
    judgements = []
    for system in SYSTEMS:
        wrong = {name: fixture for name, fixture in numbers[system].items() if not fixture["ok"]}
        if not numbers[system]:
            judgements.append(undecided(claim_of(system), f"the folder has no {system}_*.pt or .safetensors"))
            continue
        reasons = (f"{name}: {', '.join(one['failed'][:3]) or one['said']}" for name, one in wrong.items())
        said = "; ".join(reasons) or "; ".join(f"{name}: {one['said']}" for name, one in numbers[system].items())
        judgements.append(judged(claim_of(system), not wrong, said))
    return judgements


GOLDEN = Part(
    "golden",
    "Whether the numbers of the original programs come out with the torch of this machine.",
    tuple(map(claim_of, SYSTEMS)),
    2,
    measure,
    judge,
    missing=missing,
    asks=("golden",),
)
