"""RecBole's side of the race, in RecBole's own environment: `contender.py FOLDER`, commands on stdin.

FOLDER holds `settings.json` (the net's name and RecBole's configuration), `race/race.inter` (atomic file; items are
numbers of rows) and `request.npz` (the known history of each test click, and its candidates, as rows). Command `epoch`
trains one epoch by RecBole's own `Trainer._train_epoch`; `scores` writes `scores.npy`. Each is answered by a JSON line.
Nothing of this project is imported: RecBole's environment does not have it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

# RecBole 1.2.1 was written for numpy 1: names that numpy 2 has dropped
for _name, _type in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    setattr(np, _name, _type)


class Contender:
    """A RecBole net with its trainer and training data."""

    def __init__(self, folder: Path) -> None:
        from recbole.config import Config  # noqa: PLC0415 - needs the names above
        from recbole.data import create_dataset, data_preparation  # noqa: PLC0415 - the same
        from recbole.utils import get_model, get_trainer, init_seed  # noqa: PLC0415 - the same

        settings = json.loads((folder / "settings.json").read_text())
        config = Config(model=settings["model"], dataset="race", config_dict=settings["config"])
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        self.batches = data_preparation(config, dataset)[0]
        self.net = get_model(config["model"])(config, self.batches.dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.net)
        self.done = 0
        tokens = dataset.field2id_token["item_id"]
        self.ids = torch.zeros(settings["rows"], dtype=torch.long)
        self.ids[torch.tensor([int(token) for token in tokens[1:]])] = torch.arange(1, len(tokens))

    def epoch(self) -> dict[str, Any]:
        """Train one epoch."""
        wall, cpu = time.perf_counter(), time.process_time()
        loss = self.trainer._train_epoch(self.batches, self.done)  # noqa: SLF001 - its `fit` adds validation and saving
        self.done += 1
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return spent | {"loss": loss / len(self.batches), "steps": len(self.batches)}

    @torch.inference_mode()
    def scores(self, request: Any, at_once: int = 256) -> np.ndarray:
        """Return scores of the candidates [V, C] of each test click, given left-padded sequences [V, L]."""
        self.net.eval()
        found = []
        for start in range(0, len(request["items"]), at_once):
            sequences = torch.from_numpy(request["sequences"][start : start + at_once])
            items = torch.from_numpy(request["items"][start : start + at_once])
            length = (sequences != 0).sum(1)
            order = (torch.arange(sequences.shape[1]) - length[:, None]) % sequences.shape[1]  # padding to the right
            known = {"item_id_list": self.ids[sequences.gather(1, order)], "item_length": length}
            found.append(self.net.full_sort_predict(known).gather(1, self.ids[items]).numpy())
        return np.concatenate(found)


def main(folder: Path) -> None:
    """Run commands until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # RecBole's own output must not mix with the answers
    sys.argv = sys.argv[:1]  # RecBole reads the command line as well
    torch.set_num_threads(1)
    contender = Contender(folder)
    for order in sys.stdin:
        if order.strip() == "epoch":
            answer = contender.epoch()
        else:
            np.save(folder / "scores.npy", contender.scores(np.load(folder / "request.npz")))
            answer = {}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
