"""Open-vocabulary baselines: names of types that no training cell had, by walks over the ontology, votes, markers or hierarchy."""
