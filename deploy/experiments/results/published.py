"""The paper's numbers, and what others published for protocols that are known. Nothing here is computed or re-run."""

from __future__ import annotations

from models.evaluation.metrics import METRICS

Numbers = dict[str, tuple[float, ...]]  # model -> HR@1, HR@5, HR@10, NDCG@5, NDCG@10, MRR

TABLE2: dict[str, Numbers] = {
    "ml-1m": {
        "FM": (0.5308, 0.6619, 0.7511, 0.6150, 0.6395, 0.6108),
        "NeuMF": (0.5345, 0.6622, 0.7538, 0.6230, 0.6471, 0.6162),
        "GRU4Rec": (0.5459, 0.6794, 0.7615, 0.6202, 0.6445, 0.6177),
        "DIN": (0.5505, 0.6868, 0.7616, 0.6207, 0.6449, 0.6197),
        "DIN+FM": (0.5508, 0.6782, 0.7567, 0.6271, 0.6508, 0.6169),
        "DIN+NeuMF": (0.5441, 0.6709, 0.7618, 0.6265, 0.6509, 0.6216),
        "DIN+GRU4Rec": (0.5671, 0.6880, 0.7643, 0.6285, 0.6538, 0.6304),
        "MC2-SF": (0.6105, 0.7166, 0.7768, 0.6643, 0.6837, 0.6636),
    },
    "steam": {
        "FM": (0.4204, 0.5393, 0.6054, 0.4821, 0.5034, 0.4858),
        "NeuMF": (0.3310, 0.5145, 0.5729, 0.4372, 0.4600, 0.4300),
        "GRU4Rec": (0.4492, 0.5398, 0.6111, 0.4950, 0.5178, 0.5034),
        "DIN": (0.4512, 0.5425, 0.6098, 0.4976, 0.5192, 0.5055),
        "DIN+FM": (0.4699, 0.5679, 0.6256, 0.5202, 0.5388, 0.5231),
        "DIN+NeuMF": (0.4150, 0.5281, 0.5989, 0.4666, 0.4854, 0.4721),
        "DIN+GRU4Rec": (0.4796, 0.5726, 0.6419, 0.5265, 0.5487, 0.5355),
        "MC2-SF": (0.4926, 0.5853, 0.6538, 0.5389, 0.5617, 0.5464),
    },
}
TABLE3: dict[str, dict[str, dict[str, float]]] = {  # HR@5, NDCG@5 and MRR only
    "ml-1m": {
        "MC2-SF": {"hr@5": 0.7166, "ndcg@5": 0.6642, "mrr": 0.6636},
        "SASRec": {"hr@5": 0.6855, "ndcg@5": 0.6188, "mrr": 0.6166},
        "Caser": {"hr@5": 0.6837, "ndcg@5": 0.6181, "mrr": 0.6170},
    },
    "steam": {
        "MC2-SF": {"hr@5": 0.5853, "ndcg@5": 0.5389, "mrr": 0.5464},
        "SASRec": {"hr@5": 0.5419, "ndcg@5": 0.4961, "mrr": 0.5028},
        "Caser": {"hr@5": 0.5393, "ndcg@5": 0.4920, "mrr": 0.4992},
    },
}

# ML-1M, leave-one-out, 100 uniform negatives, all ratings positive
LEAVE_ONE_OUT: dict[str, dict[str, float]] = {
    "SASRec": {"ndcg@10": 0.5905, "hr@10": 0.8245},  # nikodeb/SUE-PBR; pmixer/SASRec.pytorch: .5897-.5918, .8190-.8225
    "Caser": {"ndcg@10": 0.5538, "hr@10": 0.7883},  # nikodeb/SUE-PBR
}


def paper(table: str, data: str, model: str) -> dict[str, float]:
    """Return the paper's figures for a model in a table; empty if it has none, as for a sample or another protocol."""
    scheme = {"steam-steam_reviews": "steam"}.get(data, data)
    if table == "table3" and model in TABLE3.get(scheme, {}):
        return TABLE3[scheme][model]
    found = TABLE2.get(scheme, {}).get(model)
    return dict(zip(METRICS, found, strict=True)) if found else {}
