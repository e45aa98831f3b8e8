"""Trainers, minibatches and losses.

`retrain.py` fits all four nets of the next release on the log: the stream's retrain process calls it.
`online.py` makes small steps of the fast part as examples arrive: the stream's learner calls it.
`fit.py` fits one net over epochs, with early stopping and resumption: the offline experiments call it.
"""
