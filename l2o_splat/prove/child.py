"""One part in a process of its own: ``python -m l2o_splat.prove.child PART SETTING.json ANSWER.json``.

The answer holds either the ``numbers`` or why the part is ``undecided``; after an error there is none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from l2o_splat.files import write_text_whole
from l2o_splat.prove.errors import UndecidedError
from l2o_splat.prove.part import Setting


def main(words: list[str]) -> None:
    """Measure the part that the words name, and write the answer."""
    from l2o_splat.prove.parts import part_named

    name, setting, answer = words[0], Setting.read(Path(words[1])), Path(words[2])
    try:
        found = {"numbers": part_named(name).measure(setting)}
    except UndecidedError as error:
        print(f"not decided: {error}")
        found = {"undecided": str(error)}
    write_text_whole(answer, json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
