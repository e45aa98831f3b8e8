"""Item2vec: the mean of the last clicks predicts the next click (CBOW; Barkan & Koenigstein, arXiv 1603.04259).

It has only an item table, so it is fitted in seconds. Other nets start from its table (`item_tables`): otherwise they
rank by popularity for long, because almost no gradient reaches E through their layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from models.baselines.sequential import SequenceReader, Sequential
from models.data.catalogue import ROW_PADDING
from models.data.queries import recent


@dataclass(frozen=True)
class Item2VecConfig:
    """Sizes of the net; `span` is the number of last clicks that are averaged."""

    dim: int = 32
    length: int = 50
    span: int = 10


class Item2Vec(Sequential):
    """An item table and a bias per item, no other weights."""

    def __init__(self, config: Item2VecConfig, rows: int, reads: SequenceReader = recent) -> None:
        super().__init__(rows, config.dim, config.length, reads)
        self.span = config.span

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = (sequences != ROW_PADDING)[..., None].to(self.items.weight.dtype)
        total = self._summed(self.items(sequences) * real)
        return total / self._summed(real).clamp(min=1)

    def _summed(self, x: Tensor) -> Tensor:
        """Return the sum over each position and the span - 1 before it: [B, L, d]."""
        upto = functional.pad(x.cumsum(1), (0, 0, self.span, 0))
        return upto[:, self.span :] - upto[:, : -self.span]
