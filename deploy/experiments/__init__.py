"""The paper's experiments: offline, every cell kept when done."""
