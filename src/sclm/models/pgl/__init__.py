"""Cells written from metadata: the PGL family."""
