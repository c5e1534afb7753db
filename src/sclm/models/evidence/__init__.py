"""Descriptions from statistics alone: no network, no training, no language model."""
