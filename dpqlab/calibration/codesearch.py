"""The nearest codeword to every latent of a layer, without leaving the device.

Shapes are fixed when a search is made, so that CUDA graphs can capture it; codewords move, codes
follow. :func:`dpqlab.core.codecs.encode` does the same for weights, once and exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dpqlab.core import split
from dpqlab.kernels import best_search
from dpqlab.nn.linear import CompressedLinear

CHUNK_BYTES = 1 << 29  # scratch memory of the distances


class CodeSearch:
    """Chooses the codes of one layer, and shows the layer the codewords they stand for.

    Attributes
    ----------
    layer
        The layer, with its codes cached.
    cache
        The layer's ``codes_cache`` when the search was made: written in place, and the layer's
        again whenever codes are shown, because a CUDA graph reads from where it was.
    codes
        int64 (out, m): the codes as they are now.
    """

    def __init__(self, layer: CompressedLinear) -> None:
        assert layer.codes_cache is not None
        self.layer, self.cache = layer, layer.codes_cache
        self.codes = layer.codes()
        self.offsets = layer.base[layer.scope_of]
        self.groups = list(_groups(layer))
        self.nearest = best_search(self.cache.device)

    def show_(self) -> None:
        """Write the entries of ``codes`` into the cache, and make it the layer's."""
        # with one codebook a code is its place among the pool's, and there is nothing to add
        entries = self.codes if len(self.layer.base) == 2 else self.codes + self.offsets
        if self.layer.table is not None:
            entries = self.layer.table[entries]
        self.cache.copy_(entries)
        self.layer.codes_cache = self.cache

    def choose_(self, latent: Tensor, entries: Tensor) -> None:
        """Choose for each latent (out, m, d) the nearest of its scope's entries (P, d)."""
        for positions, books, missing in self.groups:
            words = entries[books]  # (S, k, d)
            square = words.square().sum(-1)[:, None]
            if missing is not None:
                square = square.masked_fill(missing[:, None], torch.inf)
            out, scopes = len(latent), len(books)
            # a slice where it can be: an index would copy the latents
            where = slice(None) if len(positions) == latent.shape[1] else positions
            rows = max(1, CHUNK_BYTES // (4 * len(positions) * words.shape[1]))
            for start in range(0, out, rows):
                part = latent[start : start + rows, where]
                apart = part.reshape(len(part), scopes, -1, part.shape[-1]).transpose(0, 1)
                found = self.nearest(apart.flatten(1, 2), words, square)
                found = found.view(scopes, len(part), -1).transpose(0, 1)
                self.codes[start : start + rows, where] = found.flatten(1)
        self.show_()


def _groups(layer: CompressedLinear) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield scopes that own equally many positions: those positions, entries (S, k), padding.

    Padding is None where all codebooks are of one size.
    """
    counts = torch.bincount(layer.scope_of)
    sizes = layer.base.diff()
    for count in counts.unique():
        scopes = (counts == count).nonzero()[:, 0]
        positions = (counts[layer.scope_of] == count).nonzero()[:, 0]
        slots = torch.arange(int(sizes[scopes].max()), device=sizes.device)
        missing = slots >= sizes[scopes, None]
        books = (layer.base[scopes, None] + slots).clamp_(max=int(layer.base[-1]) - 1)
        entries = books if layer.table is None else layer.table[books]
        yield positions, entries, missing if bool(missing.any()) else None


@torch.no_grad()
def initial_latent(layer: CompressedLinear, weight: Tensor) -> Tensor:
    """Return the latents (out, m, d) that a layer starts from, float32, in units of its row scale.

    Those of the full-precision ``weight`` (out, in), where their nearest codeword is the one that
    the layer uses; elsewhere that codeword itself. So the first choice of codes changes none.
    """
    latent = split(weight.detach().float(), layer.codec.d).clone()
    if layer.scale is not None:
        scale = layer.scale.detach().float()[:, None, None]
        latent = torch.where(scale != 0, latent / scale, 0.0)
    search, entries = CodeSearch(layer), layer.pool.detach().float()
    wanted = search.codes.clone()
    search.choose_(latent, entries)
    changed = search.codes != wanted
    search.codes.copy_(wanted)
    search.show_()
    return torch.where(changed[..., None], entries[search.cache.long()], latent)
