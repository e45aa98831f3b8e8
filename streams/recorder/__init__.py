"""The recorder: writes events, outcomes and states into the tables, exactly once, and computes online metrics."""
