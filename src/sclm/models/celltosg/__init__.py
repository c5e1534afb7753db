"""Knowledge-graph annotator: virtual tokens of a biomedical graph, a cell sentence, a causal language model that names the cell."""
