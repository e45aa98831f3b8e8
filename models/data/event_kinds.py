"""The kinds of events, as numbers: one home for records, tables, training and evaluation.

Columns of events hold these numbers, since comparing members of an enum is slow; `streams.records.Kind` names them for
records. `streams.verification` states them again, because it is an independent implementation on purpose.
"""

from __future__ import annotations

EXPOSURE, CLICK, CANDIDATE, PAST_CLICK = range(4)
CLICK_KINDS = (CLICK, PAST_CLICK)  # enter histories and item statistics
