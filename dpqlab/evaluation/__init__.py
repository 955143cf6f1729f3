"""Judging samples: Frechet distance, precision and recall, fidelity to the teacher, sizes.

Everything here takes arrays and returns values. Distances are computed in float64 on the features
of a small classifier (:class:`~dpqlab.evaluation.features.FeatureNet`). The metric is called FCD,
Frechet classifier distance, and must never be set beside an Inception FID.
"""
