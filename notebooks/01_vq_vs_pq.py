# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # VQ against PQ: who shares a codebook?
#
# *25 minutes. No GPU, no network.*
#
# **What you will see.** A real weight matrix, cut into pieces and rebuilt from codes, one step at a
# time; and the one dial that leads from product quantization (PQ) to vector quantization (VQ).
#
# **Why it matters.** Both are said to store "one bit per weight". They do not store the same bits:
# the codebooks count too. Once everything is counted, the better one depends on the layer, and you
# will be able to say on what.

# %%
from dpqlab.core import CodebookCodec
from dpqlab.studies.codec_contest import bundled_contest
from dpqlab.studies.layer_coding import code_layer
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.viz.codec_contest import after_calibration, rate_distortion_by_kind, who_wins
from dpqlab.viz.codec_steps import codec_steps
from dpqlab.widgets import Exercise, Plot, Prediction, VQAgainstPQ

# %% [markdown]
# ## From weights to codes
#
# The *query* projection of block 3 is a matrix of 384 × 384 weights. To compress it:
#
# 1. **Split** every row into **sub-vectors** of `d` neighbouring weights.
# 2. For each, find the **nearest** of `k` **codewords**: vectors of `d` numbers as well. k-means
#    has chosen them so that the squared distances are small.
# 3. Keep only its number, the **code**. With `k = 16` that is 4 bits, for `d = 4` weights.
# 4. To **rebuild** the row, look every code up in the **codebook**, the list of the codewords.
#
# Here is step 2 for one sub-vector (blue). It will be replaced by the codeword in orange.

# %%
layers = LayerWeights.open("fashion-dit")
pq = code_layer(layers, 3, "attn1.to_q", CodebookCodec(d=4, k=16, scope="position"))
Plot(codec_steps(pq, row=20, position=5, step="nearest"), label="A sub-vector and its codewords")

# %% [markdown]
# ## The dial
#
# Who may use a codebook? A row of 384 weights has $m = 384 / 4 = 96$ **positions**.
#
# - **PQ**: every position has a codebook of its own, which all rows share. 96 codebooks.
# - **VQ**: one codebook serves the whole layer.
# - Between them: 2, 4, 8 … neighbouring positions share one. Beyond VQ: the same layer of all
#   blocks shares.
#
# Let $S$ be the number of codebooks. With 16 bits for a number, a layer of
# $n_\text{out} \times n_\text{in}$ weights with biases takes, for every weight,
#
# $$
# \text{true bits} \;=\; \underbrace{\frac{\lceil \log_2 k \rceil}{d}}_{\text{codes}}
# \;+\; \underbrace{\frac{16 \, k \, d \, S}{n_\text{out} \, n_\text{in}}}_{\text{codebooks}}
# \;+\; \underbrace{\frac{16}{n_\text{in}}}_{\text{bias}}
# \qquad
# \text{relative error} \;=\; \frac{\lVert W - \hat W \rVert^2}{\lVert W \rVert^2}
# $$
#
# The paper (*Diffusion Product Quantization*, arXiv 2411.12306) names its models by the first term
# alone. We count all of them.
#
# ## Predict: the same `k`, the same `d`
#
# Turn the dial from PQ to VQ and leave `d = 4`, `k = 16`. Codes stay as long as they are.

# %%
vq = code_layer(layers, 3, "attn1.to_q", CodebookCodec(d=4, k=16, scope="layer"))
nearer = "PQ" if pq.relative_error < vq.relative_error else "VQ"
Prediction(
    "Which rebuilds the matrix with the lower error, 96 codebooks (PQ) or one (VQ)?",
    ["PQ", "VQ"],
    nearer,
    f"PQ: error {pq.relative_error:.3f} at {pq.true_bits:.3f} true bits. VQ: "
    f"{vq.relative_error:.3f} at {vq.true_bits:.3f}. More codebooks fit better, and PQ's cost "
    f"{pq.bits['pool'] / pq.weight.numel():.2f} bits a weight. For bits, VQ could take a larger k.",
)

# %% [markdown]
# That was no fair comparison. A fair one is made at **equal true bits**: give VQ a larger `k` until
# both store the same. dpqlab has measured 72 such pairs on this model, within 2 %, with PQ of every
# `d` and `k` up to 1024.
#
# ## Predict: equal true bits
#
# First the layers of attention and feed-forward.

# %%
records = bundled_contest()
wins = records.wins("fashion-dit")
dense = [wins[kind] for kind in wins if kind != "norm1.linear"]
pq_won, compared = (sum(numbers) for numbers in zip(*dense, strict=True))


def winner(won: int, pairs: int) -> str:
    return "PQ" if won > 0.8 * pairs else "VQ" if won < 0.2 * pairs else "now PQ, now VQ"


# %%
answers = ["PQ", "VQ", "now PQ, now VQ"]
Prediction(
    "Attention and feed-forward, equal true bits: which has the lower error?",
    answers,
    lambda: winner(pq_won, compared),
    lambda: (
        f"PQ has the lower error in {pq_won} of {compared} pairs. At equal bits it pays for many "
        "codebooks, so that each must be small. And one position looks much like any other: a "
        "codebook of its own has little to know."
    ),
)

# %% [markdown]
# Now **adaLN**, the layer of a block that turns time and class into scales and shifts. It has 2304
# rows. Before you answer, look at how its columns go together: the correlation of neighbouring
# columns over all rows, by size. In a random matrix it would be about 0.03.


# %%
def togetherness(kind: str) -> str:
    """Root mean square of the correlations of neighbouring columns."""
    together = layers.weight(3, kind).T.corrcoef().diagonal(1)
    return f"{kind:14s} {float(together.square().mean().sqrt()):.2f}"


print("\n".join(togetherness(kind) for kind in wins))

# %%
Prediction(
    "adaLN, equal true bits: which has the lower error?",
    answers,
    lambda: winner(*wins["norm1.linear"]),
    lambda: (
        f"PQ, in {wins['norm1.linear'][0]} of {wins['norm1.linear'][1]} pairs. Columns that go "
        "together leave fewer shapes for a sub-vector to have, and every position has shapes of "
        "its own: its own codebook can know them, a common one cannot. And 2304 rows share the "
        "price."
    ),
)

# %% [markdown]
# All 72 pairs. A marker right of the line is a pair in which PQ has the lower error.

# %%
Plot(who_wins(records), label="Error of VQ over error of PQ at equal true bits, by kind of layer")

# %% [markdown]
# And a control: a random matrix, in which all positions are alike by construction, with the shapes
# of the large DiT-XL/2. If positions with shapes of their own are the reason, PQ must never win
# here.

# %%
random = records.wins("random DiT-XL/2").values()
print(f"PQ wins {sum(won for won, _ in random)} of {sum(pairs for _, pairs in random)} pairs")

# %% [markdown]
# ## Play
#
# *Step* walks a sub-vector through the four steps, then goes on to the next; a click in a picture
# walks another one. *Shared by* is the dial. The star shows where you are, rings where you were;
# the lines are the best codecs on record. Try:
#
# 1. **Turn the dial** from PQ to VQ. Which column of the table shrinks? What does the error do?
# 2. From VQ, **raise `k`** until the star has the bits that PQ had. Compare the errors.
# 3. Choose **adaLN** and do the same. Who wins now?
# 4. **PQ with `k = 256`.** Look at the bits of its codebooks. Why is the error so small?
# 5. **Share across blocks**: eight layers pay for one set of codebooks. Who gains most?

# %%
VQAgainstPQ()

# %% [markdown]
# ## Exercise
#
# Put $S = n_\text{in} / d$ into the formula: codebooks of PQ take $16 \, k / n_\text{out}$ bits a
# weight, whatever `d` is. Only the number of rows pays for them.

# %%
Exercise(
    "A layer with 384 rows. Which is the largest k for which the codebooks of PQ take at most a "
    "quarter of a bit a weight?",
    lambda k: None if k == 6 else "solve 16 k / 384 <= 1/4 for k, and round down",
    "384 / (4 * 16)   # k = 6. With 1152 rows, as in DiT-XL/2: k = 18.\n"
    "                 # The paper uses k = 256, and prunes the codebooks afterwards.",
)

# %% [markdown]
# ## All layers at a glance
#
# For every kind of layer, the best that either can do at any number of bits.

# %%
Plot(rate_distortion_by_kind(records), label="Error against true bits for every kind of layer")

# %% [markdown]
# ## After calibration
#
# A codec that is near to the weights is not yet one that draws well. Here whole models were coded,
# calibrated to do what the full-precision model does (2,500 steps), and judged by 10,000 images
# each: FCD, lower is better. In one run the **codes stay** where k-means put them and only the
# codewords learn; in the other the **codes move** as well.
#
# ## Predict: whole models, 1.12 bits
#
# VQ with `d = 8`, `k = 256` against PQ with `d = 8`, `k = 20`: sub-vectors of the same length.
# Before calibration, VQ is nearer to the weights in most layers.

# %%
one_book, many_books = "VQ d=8 k=256", "PQ d=8 k=20"


def better(*, moving: bool) -> str:
    vq, pq = (records.student(codec, moving=moving) for codec in (one_book, many_books))
    return "PQ" if pq.high < vq.low else "VQ" if vq.high < pq.low else "neither"


def distances(*, moving: bool) -> str:
    vq, pq = (records.student(codec, moving=moving).fcd for codec in (one_book, many_books))
    return f"FCD {pq:.2f} with PQ, {vq:.2f} with VQ"


# %%
Prediction(
    "Codes stay. Which draws better once the codewords are trained?",
    ["PQ", "VQ", "neither"],
    better(moving=False),
    f"{distances(moving=False)}. Only codewords can learn now, and PQ has 48 × 20 of them "
    "in such a layer, VQ 256. More that can be trained outweighs weights that were nearer: the "
    "paper's finding.",
)

# %%
Prediction(
    "And if the codes may move?",
    ["PQ", "VQ", "neither"],
    better(moving=True),
    f"{distances(moving=True)}. Both gain, VQ more. What learns now is which codeword stands "
    "where, and a code that may choose among 256 can learn more than one that chooses among 20.",
)

# %% [markdown]
# All that were calibrated. Hollow: codes stay; in each group the codec whose codebooks are largest
# does best, the one whose are smallest worst. Full: codes move, and whatever the codec, that draws
# better. How codes are found counts for more than which codebooks they name.

# %%
Plot(after_calibration(records), label="FCD of whole models after calibration, by codec")

# %% [markdown]
# ## Summary
#
# - VQ and PQ are **two ends of one dial**: how many positions share a codebook.
# - At the same `k` and `d`, PQ is nearer to the weights and **larger**. Compare at equal true bits.
# - Then, before calibration, **PQ wins only where positions differ** and many rows share the price:
#   in adaLN, whose columns go together. Elsewhere VQ wins.
# - PQ's codebooks cost 16 k bits over the number of rows. Wide models pay less; pruning helps:
#   → [`02_codebook_importance`](02_codebook_importance.ipynb),
#   [`03_pruning_the_pool`](03_pruning_the_pool.ipynb).
# - The error of the *weights* is not the last word. Once codewords are trained, PQ can win where it
#   lost before; once codes move too, the codec matters little, unless `k` is small for its `d`.
#   How that is done: → [`04_calibration`](04_calibration.ipynb).
#
# **Functions used:** `dpqlab.core.fit_pool`, `encode`, `decode` (the codec),
# `dpqlab.core.CodebookCodec` (the dial), `dpqlab.studies.layer_coding.code_layer`,
# `dpqlab.studies.codec_contest.bundled_contest`, `dpqlab.viz.codec_steps.codec_steps`,
# `dpqlab.viz.codec_contest.rate_distortion_by_kind`, `who_wins`, `after_calibration`. The records:
# `python -m benchmarks.vq_vs_pq`.
