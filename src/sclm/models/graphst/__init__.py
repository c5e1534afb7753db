"""Spots in their surroundings: the spatial graph network, and means over neighbours to compare it with."""
