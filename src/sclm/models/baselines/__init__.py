"""Simple methods that a model has to beat: logistic regression, nearest neighbours, mean profiles, the majority type."""
