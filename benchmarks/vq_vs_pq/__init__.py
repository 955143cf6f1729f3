"""VQ by codebook size, and VQ against PQ at equal true bits: where does which win."""

SUITE = "vq_vs_pq"
