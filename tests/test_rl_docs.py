"""Each detail of PPO that docs/rl.md names stands where it says."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_details_stand_where_they_are_said_to():
    rows = re.findall(r"\| \[[\w.]+\]\(([\w./]+)\) `(.+?)` \|", (DOCS / "rl.md").read_text(encoding="utf-8"))
    assert len(rows) >= 24
    for file, code in rows:
        assert code in (DOCS / file).read_text(encoding="utf-8"), f"{file} has no {code}"
