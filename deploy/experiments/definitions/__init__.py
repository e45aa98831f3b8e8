"""The experiments by name: tables of the paper, variations, case study."""
