"""Geneformer: a cell as its genes in rank order, read by BERT."""
