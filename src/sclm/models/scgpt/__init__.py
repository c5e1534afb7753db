"""Cells as sets of genes with binned values: the scGPT family."""
