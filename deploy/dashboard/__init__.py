"""The live page of a run: its report while it happens, with controls of the replay and the releases."""
