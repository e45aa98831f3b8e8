"""Result pages, plots and the paper's published figures."""
