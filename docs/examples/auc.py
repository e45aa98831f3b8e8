"""A metric: the share of the other candidates that are ranked below the clicked item."""


def auc(rank: int, n: int) -> float:
    """Return the area under the ROC curve of one list of `n` candidates, with the clicked item at `rank`."""
    return (n - rank) / (n - 1) if n > 1 else 1.0
