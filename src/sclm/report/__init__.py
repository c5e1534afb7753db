"""The demonstration on real cells and its self-contained HTML report."""
