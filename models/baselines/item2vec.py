"""Item2vec as a net of its own: the mean of the last clicks says what is clicked next (CBOW; arXiv 1603.04259).

It has an item table and nothing else, so it is fitted in seconds; other nets start from its table (`item_tables`) and
are spared the long plateau at popularity, where next to nothing reaches E through their layers.
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
    """Sizes of the net; `span` is how many of the last clicks are averaged."""

    dim: int = 32
    length: int = 50
    span: int = 10


class Item2Vec(Sequential):
    """No weights but the item table and a bias an item."""

    def __init__(self, config: Item2VecConfig, rows: int, reads: SequenceReader = recent) -> None:
        super().__init__(rows, config.dim, config.length, reads)
        self.span = config.span

    def states(self, sequences: Tensor) -> Tensor:
        """See `Sequential.states`."""
        real = (sequences != ROW_PADDING)[..., None].to(self.items.weight.dtype)
        total = self._summed(self.items(sequences) * real)
        return total / self._summed(real).clamp(min=1)

    def _summed(self, x: Tensor) -> Tensor:
        """The sum of each place and the span - 1 before it: [B, L, d]."""
        upto = functional.pad(x.cumsum(1), (0, 0, self.span, 0))
        return upto[:, self.span :] - upto[:, : -self.span]
