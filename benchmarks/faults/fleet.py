"""The cost of each fault of a device fleet: `python -m benchmarks.faults.fleet`, a whole run for each and a sound one.

A row is written to `faults.json` at the end of its run; a fleet with a row is not run again. `cost` is the sound
fleet's metric minus this one's. Ranked clicks and candidates are drawn by user and sequence number: faults that change
the numbers change the draw, so small differences are chance (`error` is one standard error of such a difference).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import described

SOURCE = "synthetic:users=300"
ARGUMENTS = ("--epoch", "600", "--evaluate", "0.5")
FLEETS = {
    "none": "",
    "offline": "offline=0.1",
    "lost": "lost=0.1",
    "skew": "skew=0.2",
    "reordered": "reordered=0.2",
    "hostile": "hostile=5",
    "duplicates": "duplicates=0.2",
    "old": "old=0.5",
    "all": "offline=0.1,reordered=0.2,skew=0.2,lost=0.1,duplicates=0.2,old=0.5,hostile=5",
}
SHOWN, METRICS = ("din", "fast", "mc2sf"), ("hr@10", "ndcg@10")
COUNTED = ("events_sent", "events_applied", "events_duplicate", "dead_letters", "outcomes", "faults", "restarts")
RESULT = Path(__file__).with_name("faults.json")


def run(faults: str) -> dict[str, Any]:
    """Run on such a fleet, with verification. Return the summary. Raises RuntimeError if the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deploy.cli"]
        wanted = ["run", SOURCE, *ARGUMENTS, "--faults", faults, "--out", folder]
        for arguments in (wanted, ["verify", folder]):
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                raise RuntimeError(f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        summary: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text())
    return summary


def row(name: str, summary: dict[str, Any], sound: dict[str, Any] | None) -> dict[str, Any]:
    """Return the row of a run, with its differences to the row of the sound fleet."""
    online = {v: {m: round(summary["online"][v][m], 4) for m in METRICS} for v in SHOWN}
    found = {"faults": FLEETS[name], **{key: summary[key] for key in COUNTED if key != "faults"}}
    found |= {"effects": summary["faults"], "ranked": summary["online"]["mc2sf"]["n"], "online": online}
    found |= {"seconds": summary["seconds"], "digest": summary["digest"]}
    if sound is None:
        return found
    cost = {v: {m: round(sound["online"][v][m] - online[v][m], 4) for m in METRICS} for v in SHOWN}
    hits = online["mc2sf"]["hr@10"]
    error = math.sqrt(hits * (1 - hits) * (1 / found["ranked"] + 1 / sound["ranked"]))
    return found | {"cost": cost, "error_hr@10": round(error, 4), "same_digest": found["digest"] == sound["digest"]}


def main() -> None:
    """Run the fleets without a row, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fleets", nargs="*", metavar="FLEET", help=f"of {', '.join(FLEETS)} [default: all of them]")
    wanted = parser.parse_args().fleets or list(FLEETS)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": {}}
    result |= {"source": SOURCE, "arguments": list(ARGUMENTS), "machine": described(("torch", "faust-streaming"))}
    rows = result["rows"]
    for name in [name for name in FLEETS if name in wanted and name not in rows]:
        rows[name] = row(name, run(FLEETS[name]), rows.get("none"))
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: rows[name]}), flush=True)


if __name__ == "__main__":
    main()
