"""The nets' ranks of questions, in this process or in one of several: the same call gives the same ranks anywhere."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine, create_engine

from models.evaluation.metrics import rank
from streams.releases.release import Assembler, Release, read_release
from streams.rescoring.ranking_queries import Question

Floats = NDArray[np.float32]


class Rescorer:
    """Ranks questions of a run by its releases; keeps the last one."""

    def __init__(self, engine: Engine, run: str) -> None:
        self._engine, self._run = engine, run
        self._assembler = Assembler()
        self._release: Release | None = None

    def score(self, version: int, questions: list[Question], *, late: bool = False) -> list[dict[str, int]]:
        """The ranks by release `version`. `late`: also by what the cloud's answer was too late for."""
        release = self._read(version)
        memories = self._fold(release, [question.memory for question in questions])
        return [self._rank(release, q, r2, late=late) for q, r2 in zip(questions, memories, strict=True)]

    def _read(self, version: int) -> Release:
        if self._release is None or self._release.manifest.version != version:
            with self._engine.connect() as connection:
                self._release = read_release(connection, self._run, version, self._assembler)
        return self._release

    @staticmethod
    def _fold(release: Release, memories: list[NDArray[np.int64]]) -> Floats:
        """r2 of each: the fold of its exposures, zero where there are none. [n, d]."""
        zero = np.zeros((len(memories), release.scorer.config.dim), np.float32)
        return release.scorer.encode_exposures(zero, [release.catalogue.rows(keys) for keys in memories])

    @staticmethod
    def _rank(release: Release, asked: Question, r2: Floats, *, late: bool) -> dict[str, int]:
        scorer, rows = release.scorer, release.catalogue.rows
        candidates = rows(asked.candidates)
        slow = scorer.slow(rows(asked.history), r2, candidates, asked.standing)
        clicks, exposures = rows(asked.clicks), rows(asked.exposures)
        fast = scorer.fast(clicks, exposures, candidates, slow.r_t, slow.r_n, asked.standing)
        scores = {"fast": fast.fast}
        if asked.priors or late:
            scores |= {"din": slow.din, "f2s": slow.f2s, "mc2sf": fast.mc2sf}
        return {"random": asked.target_index + 1} | {
            name: rank(s, asked.target_index).rank for name, s in scores.items()
        }


@functools.cache
def _own() -> dict[str, Rescorer]:
    """The rescorer of a process that was started for it."""
    return {}


def start_process(url: str, run: str) -> None:
    """Make this process ready. The schema is as it should be: the caller has connected."""
    torch.set_num_threads(1)
    _own()["own"] = Rescorer(create_engine(url), run)


def score_in_process(version: int, questions: list[Question], late: bool) -> list[dict[str, int]]:
    """`Rescorer.score` in a process that was made ready."""
    return _own()["own"].score(version, questions, late=late)
