"""The nets of MC²-SF in pure torch, with the baselines that they are compared with: no Kafka, no SQL, no metrics.

Three trainers: `training/retrain.py` fits all four nets of the next release on the log (the stream's retrain process),
`training/online.py` makes small steps of the fast part as examples arrive (the stream's learner), and
`training/fit.py` fits one net at a time over epochs with early stopping (the offline experiments).
"""
