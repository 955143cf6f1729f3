"""Round to nearest, done well: the baseline that codebooks have to beat."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from dpqlab.core.formats import EncodedScalar, ScalarCodec
from dpqlab.errors import ConfigError, ShapeError

_FP16_MAX = 65_504.0
_CLIPS = 16  # candidate scales, from clipping hard to clipping nothing


def scalar_encode(weight: torch.Tensor, codec: ScalarCodec) -> EncodedScalar:
    """Round a weight to the grid ``scale * (2 * code + 1 - 2**bits)``.

    For every group the scale is the best of a line of clipping points, each followed by the least
    squares scale for its codes; errors are compared with the scale rounded to fp16, as stored.

    Parameters
    ----------
    weight
        Finite matrix of shape (out, in).
    codec
        Bits and group size; the last group of a row may be shorter.

    Returns
    -------
    EncodedScalar
        Codes and scales on the device of ``weight``.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ShapeError(f"weight must have shape (out, in), none zero: got {tuple(weight.shape)}")
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError("the weight holds NaN or infinity: nothing can be fitted to it")
    rows, columns = weight.shape
    groups, real = _grouped(weight.detach().float(), codec.group_size)
    peak = groups.abs().amax(-1, keepdim=True)
    scale = torch.zeros_like(peak)
    error = torch.full_like(peak, torch.inf)
    for step in range(1, _CLIPS + 1) if codec.bits > 1 else (1,):
        # the outermost level is (2**bits - 1) * scale
        trial = peak * (step / _CLIPS / (2**codec.bits - 1))
        levels = _nearest_levels(groups, trial, codec.bits) * real
        fitted = (groups * levels).sum(-1, keepdim=True) / levels.square().sum(-1, keepdim=True)
        for candidate in (_rounded(trial), _rounded(fitted)):
            nearest = _nearest_levels(groups, candidate, codec.bits) * candidate
            missed = ((groups - nearest) * real).square().sum(-1, keepdim=True)
            better = missed < error
            scale = torch.where(better, candidate, scale)
            error = torch.where(better, missed, error)
    codes = (_nearest_levels(groups, scale, codec.bits) - 1 + 2**codec.bits) / 2
    return EncodedScalar(
        codes=codes.reshape(rows, -1)[:, :columns].to(torch.int64).contiguous(),
        scale=scale[..., 0].half(),
        bits=codec.bits,
        group_size=codec.group_size,
        shape=(rows, columns),
    )


def scalar_decode(encoded: EncodedScalar, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rebuild the weight of shape (out, in): ``scale * (2 * code + 1 - 2**bits)``."""
    return decode_scalar_weight(
        encoded.codes, encoded.scale, encoded.bits, encoded.group_size, dtype
    )


def decode_scalar_weight(
    codes: torch.Tensor,
    scale: torch.Tensor,
    bits: int,
    group_size: int,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Decode codes (out, in) with scales (out, groups); computes in float32, rounds once."""
    wide = torch.promote_types(dtype, torch.float32)
    spread = scale.to(wide).repeat_interleave(group_size, dim=1)[:, : codes.shape[1]]
    return (spread * _levels(codes.to(wide), bits)).to(dtype)


def _grouped(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as (out, groups, size), zero-padded, and a mask (groups, size) of the real ones."""
    rows, columns = weight.shape
    missing = -columns % size
    groups = pad(weight, (0, missing)).reshape(rows, -1, size)
    real = pad(torch.ones_like(weight[0]), (0, missing)).reshape(-1, size)
    return groups, real


def _nearest_levels(groups: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the nearest odd integers of the grid; where the scale is zero, all serve."""
    top = 2**bits - 1
    units = groups / torch.where(scale > 0, scale, 1.0)
    return units.add_(top).div_(2).round_().clamp_(0, top).mul_(2).sub_(top)


def _levels(codes: torch.Tensor, bits: int) -> torch.Tensor:
    return 2 * codes + (1 - 2**bits)


def _rounded(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp(0, _FP16_MAX).half().float()
