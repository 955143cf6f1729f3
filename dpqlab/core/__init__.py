"""Tensors in, tensors out: sub-vectors, k-means, codecs, packing, and the ledger of stored bits."""

from __future__ import annotations

from dpqlab.core.codecs import (
    CodebookCodec,
    Codec,
    Encoded,
    EncodedScalar,
    Pool,
    ScalarCodec,
    code_bits,
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
from dpqlab.core.kmeans import (
    Assigner,
    Clusterer,
    KMeansConfig,
    KMeansResult,
    assign,
    kmeans,
)
from dpqlab.core.ledger import KeptTensor, LayerLedger, ModelLedger, ledger_of_encoded
from dpqlab.core.packing import check_padding, pack, packed_size, unpack
from dpqlab.core.scope import SCOPES, Scope, scope_of_positions
from dpqlab.core.subvectors import join, position_count, split

__all__ = [
    "SCOPES",
    "Assigner",
    "Clusterer",
    "CodebookCodec",
    "Codec",
    "Encoded",
    "EncodedScalar",
    "KMeansConfig",
    "KMeansResult",
    "KeptTensor",
    "LayerLedger",
    "ModelLedger",
    "Pool",
    "ScalarCodec",
    "Scope",
    "assign",
    "check_padding",
    "code_bits",
    "codec_from_dict",
    "decode",
    "decode_scalar_weight",
    "decode_weight",
    "encode",
    "fit_pool",
    "join",
    "kmeans",
    "ledger_of_encoded",
    "pack",
    "packed_size",
    "position_count",
    "relative_error",
    "row_rms",
    "scalar_decode",
    "scalar_encode",
    "scope_of_positions",
    "split",
    "unpack",
]
