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
# # Pruning the pool: what fewer codewords save, and what they cost
#
# *15 minutes. No GPU, no network. Everything opens from recorded runs.*
#
# **What you will see.** One model with fewer and fewer codewords: its bytes, its errors and its
# images, at every step of the way.
#
# **Why it matters.** In [`02_codebook_importance`](02_codebook_importance.ipynb) you saw *which*
# codewords may go. Here you see
# *how many*: where pruning is free, where it begins to hurt, and where the model breaks.

# %%
from dpqlab.studies.pruning_runs import bundled_run, equal_bits
from dpqlab.viz.pruning_path import pruning_path, sample_rows
from dpqlab.widgets import Exercise, Plot, PoolPruning, Prediction

# %% [markdown]
# ## The budget
#
# A compressed layer stores a **code** for every sub-vector, and the **codewords** that the codes
# point to. The second part is what pruning shrinks. Its limit is called the **budget** $\beta$:
#
# $$
# \underbrace{16 \, d \, P}_{\text{codewords, 16 bits a number}} + \text{tables}
# \;\le\; \beta \cdot \underbrace{n \, \lceil \log_2 k \rceil}_{\text{codes}}
# $$
#
# with $P$ codewords of $d$ numbers in the pool, $n$ sub-vectors, and $k$ codewords in the largest
# codebook. The paper (*Diffusion Product Quantization*, arXiv 2411.12306) uses $\beta = 1/4$. Mind
# the right side: once no codebook has more than 128 codewords, every **code** is a bit shorter.
# That is where most of the bytes are.
#
# Pruning goes in rounds: the least important codewords go, every sub-vector chooses again among
# those that are left, and these move to the mean of what they now stand for. Two forms of the
# pool compete, and the one with the lower error within the budget is kept: **ragged**, in which
# every position has its own codebook, of any size; and **indexed**, in which all positions
# choose from common codewords by a table of their own.
#
# ## The model
#
# `dpq-4bit` again, now all layers of all blocks: seven kinds of layers, each kind with one pool.

# %%
run = bundled_run("dpq-4bit")
whole = run.points[0]
print(f"{whole.codewords:,} codewords, {whole.true_bits:.2f} true bits a weight")
print(f"{whole.parts['codes'] / 8e6:.2f} MB codes, {whole.parts['pool'] / 8e6:.2f} MB codewords")

# %% [markdown]
# **True bits** count everything that is stored for the blocks' layers, over the number of their
# weights. "4 bit" is only the length of the codes.
#
# ## Predict: half of the codewords

# %%
half = next(point for point in run.points if point.codewords < whole.codewords / 2)
saved = 1 - half.stored_bytes / whole.stored_bytes
sizes = {0.5: "about a half", 0.25: "about a quarter", 0.1: "about a tenth"}
Prediction(
    "More than half of all codewords go. How much smaller is the whole model?",
    list(sizes.values()),
    lambda: sizes[min(sizes, key=lambda size: abs(size - saved))],
    lambda: (
        f"{saved:.1%}: from {whole.stored_bytes / 1e6:.2f} to {half.stored_bytes / 1e6:.2f} MB. "
        f"Codes were {whole.parts['codes'] / 8 / whole.stored_bytes:.0%} of it. The predicted "
        f"noise is now off by {half.noise_error:.3%} of its power, {whole.noise_error:.3%} before."
    ),
)

# %% [markdown]
# ## Predict: the last image
#
# All images below are drawn from the same noise, with fewer and fewer codewords, and **without any
# calibration**. At about which true bits does the last image of clothes disappear?


# %%
def gone_at() -> float:
    """True bits of the first point whose pictures are as far off as those of the last, nearly."""
    last = run.points[-1].image_error
    return next(p.true_bits for p in run.points if p.image_error > 0.75 * last)


bits = {4: "at about 4", 3: "at about 3", 2: "at about 2", 1: "at about 1"}
Prediction(
    "Where does the uncalibrated model stop drawing clothes?",
    list(bits.values()),
    lambda: bits[min(bits, key=lambda b: abs(b - gone_at()))],
    lambda: (
        f"At {gone_at():.2f} true bits the images are as wrong as a grey square. An error of a few "
        "per cent in the predicted noise is enough: it is made at each of 20 steps."
    ),
)

# %% [markdown]
# (The rule behind the answer: the first row whose mean squared difference from the teacher's images
# is at least three quarters of that of the last row. Judge for yourself.)

# %%
drawn = zip(run.points, run.samples, strict=True)
rows = {f"{point.true_bits:.2f} bits": images for point, images in drawn}
Plot(sample_rows({"teacher": run.teacher} | rows), label="Images along the pruning path")

# %% [markdown]
# ## Walk the path
#
# Move *Budget* (the arrow keys work too), or click a point. Everything follows: the ring in the
# figure, the images, the bytes. **Pin A** and **Pin B** keep two points for comparison. Filled
# points are the ones worth having: no other point of the same run has both fewer bits and a
# lower error.
#
# Look for:
#
# 1. **The long steps to the left.** What became smaller there, codewords or codes?
# 2. **The grey part** of the bar. Why does it not shrink?
# 3. **Who gives most?** On the right, each kind of layer. Attention has the fewest rows to share a
#    codebook, so the same budget leaves it the fewest codewords; near 3 bits only a handful, which
#    all positions then share through tables.

# %%
view = PoolPruning()
view

# %% [markdown]
# To keep what you found: **Save model** prunes the model to the budget of the ring, here and for
# real, with the code of `dpqlab prune`, and writes a folder that `load_pipeline` opens. It walks
# the whole path again: five to ten minutes on two cores. *Stop* writes nothing.
#
# ## Is it better to prune, or to code coarser from the start?
#
# `dpq-3bit` cuts rows into sub-vectors of three numbers instead of two: shorter codes to begin
# with. At **equal true bits**, within 2 %, which has the lower error? Compare at no other place.

# %%
runs = [bundled_run(name) for name in ("dpq-4bit", "dpq-3bit")]
pairs = [pair for pair in equal_bits(*runs) if pair[0].noise_error < 0.5]
options = ["dpq-4bit, pruned more", "dpq-3bit, pruned less", "now this one, now that one"]


def nearer() -> str:
    first_wins = {p.noise_error < q.noise_error for p, q in pairs}
    return options[2] if len(first_wins) > 1 else options[0 if first_wins == {True} else 1]


told = "; ".join(
    f"at {q.true_bits:.2f} bits {p.noise_error:.1%} and {q.noise_error:.1%}" for p, q in pairs
)

# %%
Prediction(
    f"{len(pairs)} pairs of points have equal true bits. Which model is nearer to the teacher?",
    options,
    nearer,
    lambda: (
        "; ".join(
            f"at {q.true_bits:.2f} bits {p.noise_error:.1%} against {q.noise_error:.1%}"
            for p, q in pairs
        )
        + " of the noise's power (dpq-4bit against dpq-3bit)."
    ),
)

# %% [markdown]
# Few points have equal bits, but there is another fair comparison: a point that has fewer bits
# *and* a lower error is better, whatever the codec. Of the points of `dpq-4bit` whose noise is off
# by less than 5 %, how many are beaten like that by `dpq-3bit`?

# %%
drawing = [p for p in runs[0].points if p.noise_error < 0.05]
rivals = runs[1].points
lowest = min(q.true_bits for q in rivals if q.noise_error < 0.05)
beaten = [
    any(q.true_bits <= p.true_bits and q.noise_error <= p.noise_error for q in rivals)
    for p in drawing
]
print(f"{sum(beaten)} of {len(drawing)}; dpq-3bit stays below 5 % down to {lowest:.2f} bits")

# %%
Plot(pruning_path(runs), label="Error of the predicted noise against true bits, both models")

# %% [markdown]
# ## Exercise
#
# The query projections: 49,152 codewords of 2 numbers, 16 bits each; 8 matrices of 384 × 384
# weights, a code of 8 bits for every 2 of them.

# %%
Exercise(
    "With all codewords, which share of the bits of the codes does this pool take?",
    lambda share: (
        None
        if abs(share - 1 / 3) < 0.01
        else "bits of the pool: codewords x numbers x 16; bits of the codes: weights / 2 x 8"
    ),
    "pool = 49_152 * 2 * 16            # 1,572,864 bits\n"
    "codes = 8 * 384 * 384 // 2 * 8    # 4,718,592 bits\n"
    "pool / codes                      # 1/3: more than the paper's budget of 1/4",
)

# %% [markdown]
# ## Summary
#
# - **Codewords are few bytes, codes are many.** Removing half of the codewords saves a tenth. What
#   saves more is that codes get shorter when codebooks fall below a power of two.
# - Pruning is cheap at first; then the error doubles from point to point.
# - **Without calibration this model stops drawing near 3 bits.** One and two bits are for
#   calibrated models: → [`04_calibration`](04_calibration.ipynb).
# - A code that fits the budget from the start beats a finer one that is pruned to it. It takes
#   **equal true bits** to say so.
#
# **Functions used:** `dpqlab.core.prune_path` and `prune` (the method),
# `dpqlab.studies.pruning_runs.bundled_run`, `front`, `dpqlab.viz.pruning_path.pruning_path`,
# `stored_parts`, `sample_rows`, `dpqlab.studies.pruned_checkpoint.prune_checkpoint`. On the
# command line: `dpqlab prune fashion-dit --preset dpq-4bit --dry-run`.
