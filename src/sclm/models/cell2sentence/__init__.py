"""Public language models of cell sentences: the cell2sentence family."""
