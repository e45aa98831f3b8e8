"""The training of the experiments against RecBole."""
