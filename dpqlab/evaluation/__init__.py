"""Judging samples: Frechet distance, precision and recall, fidelity to the teacher, sizes.

Everything here takes arrays and returns values. Distances are computed in float64 on the features
of a small classifier (:class:`~dpqlab.evaluation.features.FeatureNet`). The metric is called FCD,
Frechet classifier distance, and must never be set beside an Inception FID.
"""

from dpqlab.evaluation.bundled import bundled_feature_net, bundled_reference, quick_reference
from dpqlab.evaluation.config import EvaluationConfig, Sampler, requested_labels
from dpqlab.evaluation.evaluator import (
    EvaluationResult,
    EvaluationStep,
    FidelityResult,
    draw_teacher_steps,
    evaluate_steps,
    last_of,
)
from dpqlab.evaluation.features import (
    FeatureNet,
    Features,
    extract,
    load_feature_net,
    save_feature_net,
)
from dpqlab.evaluation.fidelity import agreement, feature_cosine, psnr
from dpqlab.evaluation.frechet import (
    Interval,
    frechet_difference,
    frechet_distance,
    frechet_interval,
)
from dpqlab.evaluation.precision_recall import PrecisionRecall, precision_recall
from dpqlab.evaluation.projection import DIT_XL_2, Geometry, Projection, project, ratio_at
from dpqlab.evaluation.rate_distortion import (
    RateDistortionPoint,
    curve_codecs,
    pareto,
    rate_distortion_points,
)
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.sizes import ledger_parts, size_figures
from dpqlab.evaluation.statistics import FeatureStatistics
from dpqlab.evaluation.teacher import TeacherSamples

__all__ = [
    "DIT_XL_2",
    "EvaluationConfig",
    "EvaluationResult",
    "EvaluationStep",
    "FeatureNet",
    "FeatureStatistics",
    "Features",
    "FidelityResult",
    "Geometry",
    "Interval",
    "PrecisionRecall",
    "Projection",
    "RateDistortionPoint",
    "Reference",
    "Sampler",
    "TeacherSamples",
    "agreement",
    "bundled_feature_net",
    "bundled_reference",
    "curve_codecs",
    "draw_teacher_steps",
    "evaluate_steps",
    "extract",
    "feature_cosine",
    "frechet_difference",
    "frechet_distance",
    "frechet_interval",
    "last_of",
    "ledger_parts",
    "load_feature_net",
    "pareto",
    "precision_recall",
    "project",
    "psnr",
    "quick_reference",
    "rate_distortion_points",
    "ratio_at",
    "requested_labels",
    "save_feature_net",
    "size_figures",
]
