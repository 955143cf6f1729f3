"""Layers with packed weights, and the surgery that puts them into a model."""
