"""Tensors in, tensors out: sub-vectors, k-means, codecs, packing, and the ledger of stored bits."""

from __future__ import annotations

from dpqlab.core.assignment import AssignmentConfig, reassign
from dpqlab.core.codecs import (
    CodebookCodec,
    Codec,
    Encoded,
    EncodedScalar,
    ScalarCodec,
    codec_from_dict,
    decode,
    decode_scalar_weight,
    decode_weight,
    encode,
    fit_pool,
    relative_error,
    row_rms,
    scalar_decode,
    scalar_encode,
)
from dpqlab.core.importance import importance
from dpqlab.core.kmeans import (
    Assigner,
    Clusterer,
    KMeansConfig,
    KMeansResult,
    assign,
    kmeans,
)
from dpqlab.core.lazy import LazyWeight
from dpqlab.core.ledger import KeptTensor, LayerLedger, ModelLedger, ledger_of_encoded
from dpqlab.core.packing import check_padding, code_bits, pack, packed_size, unpack
from dpqlab.core.pool import OFFSET_BITS, Measure, Pool, PoolConfig, PoolForm
from dpqlab.core.prune_record import PruneRecord
from dpqlab.core.pruning import prune, prune_path
from dpqlab.core.refitting import Member, reencode, refit, refit_members
from dpqlab.core.scope import ACROSS, SCOPES, Across, Scope, scope_of_positions
from dpqlab.core.search import Search, nearest
from dpqlab.core.subvectors import join, position_count, split

__all__ = [
    "ACROSS",
    "OFFSET_BITS",
    "SCOPES",
    "Across",
    "Assigner",
    "AssignmentConfig",
    "Clusterer",
    "CodebookCodec",
    "Codec",
    "Encoded",
    "EncodedScalar",
    "KMeansConfig",
    "KMeansResult",
    "KeptTensor",
    "LayerLedger",
    "LazyWeight",
    "Measure",
    "Member",
    "ModelLedger",
    "Pool",
    "PoolConfig",
    "PoolForm",
    "PruneRecord",
    "ScalarCodec",
    "Scope",
    "Search",
    "assign",
    "check_padding",
    "code_bits",
    "codec_from_dict",
    "decode",
    "decode_scalar_weight",
    "decode_weight",
    "encode",
    "fit_pool",
    "importance",
    "join",
    "kmeans",
    "ledger_of_encoded",
    "nearest",
    "pack",
    "packed_size",
    "position_count",
    "prune",
    "prune_path",
    "reassign",
    "reencode",
    "refit",
    "refit_members",
    "relative_error",
    "row_rms",
    "scalar_decode",
    "scalar_encode",
    "scope_of_positions",
    "split",
    "unpack",
]
