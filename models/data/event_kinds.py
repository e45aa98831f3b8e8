"""The kinds of events as numbers, for records, tables, training and evaluation.

Columns of events hold numbers because comparing members of an enum is slow; `streams.records.Kind` is the enum for
records. `streams.verification` has its own copy, because it is an independent implementation on purpose.
"""

from __future__ import annotations

EXPOSURE, CLICK, CANDIDATE, PAST_CLICK = range(4)
CLICK_KINDS = (CLICK, PAST_CLICK)  # enter histories and item statistics
