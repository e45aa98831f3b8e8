"""RecBole as a child process: its environment, its files, and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deploy.experiments.data.candidate_lists import CandidateLists
from deploy.experiments.training.hyperparameters import Hyperparameters
from deploy.experiments.training.trainer import Trainer
from models.data.interaction_log import Ints
from models.data.queries import Queries
from models.evaluation.metrics import rank

RECBOLE = "recbole==1.2.1"
_CONTENDER = Path(__file__).with_name("contender.py")
NETS = {
    "GRU4Rec": lambda r: {
        "embedding_size": r.dim,
        "hidden_size": 2 * r.dim,
        "num_layers": 1,
        "dropout_prob": r.dropout,
    },
    "SASRec": lambda r: {
        "hidden_size": r.dim,
        "inner_size": 4 * r.dim,
        "n_layers": 2,
        "n_heads": 1,
        "hidden_dropout_prob": r.dropout,
        "attn_dropout_prob": r.dropout,
    },
}


def environment(folder: Path) -> Path:
    """The Python of an environment in `folder` that has RecBole, created if it is missing, with the same torch."""
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603 - our own command
        same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy")]
        command = [str(python), "-m", "pip", "install", "--quiet", RECBOLE, *same]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
        (folder / ".complete").touch()
    return python


class Rival:
    """A RecBole net that trains and scores on command."""

    name = "RecBole"

    def __init__(
        self, python: Path, folder: Path, model: str, trainer: Trainer, params: Hyperparameters, clicks: int
    ) -> None:
        """`clicks` a batch; RecBole's own loss: the softmax over the whole catalogue."""
        self._folder = folder
        (folder / "race").mkdir(parents=True)
        _write_log(trainer, folder / "race" / "race.inter")
        config = NETS[model](params) | {
            "data_path": str(folder),
            "checkpoint_dir": str(folder / "saved"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": trainer.protocol.history,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "train_batch_size": clicks,
            "learning_rate": params.learning_rate,
            "use_gpu": False,
            "show_progress": False,
            "seed": 1,
        }
        (folder / "settings.json").write_text(json.dumps({"model": model, "rows": trainer.rows, "config": config}))
        with (folder / "log").open("wb") as log:
            self._child = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [python, _CONTENDER, folder],
                cwd=folder,  # RecBole writes files to its working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def epoch(self, number: int) -> dict[str, Any]:
        """Train epoch `number`: seconds, mean loss, steps."""
        del number  # RecBole counts epochs itself
        return self._progress("epoch")

    def ranks(self, lists: CandidateLists, queries: Queries) -> Ints:
        """Return the rank of each click of `lists`, by the rule for all nets."""
        sequences = queries.clicks.numpy()
        np.savez(self._folder / "request.npz", sequences=sequences, items=lists.items)
        self._progress("scores")
        scores = np.load(self._folder / "scores.npy")
        return np.array([rank(row, int(place)).rank for row, place in zip(scores, lists.target_index, strict=True)])

    def close(self) -> None:
        """End the child."""
        self._child.communicate(timeout=60)

    def _progress(self, order: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(order + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError("RecBole ended; its log:\n" + (self._folder / "log").read_text()[-4000:])
        told: dict[str, Any] = json.loads(answer)
        return told


def _write_log(trainer: Trainer, path: Path) -> None:
    """Write all clicks as RecBole's atomic file. Times are indices in the log, so that equal times keep our order."""
    log, clicks = trainer.dataset.log, np.flatnonzero(trainer.dataset.phase >= 0)
    lines = [f"{log.users[i]}\t{log.keys[i]}\t{i}" for i in clicks]
    path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")
