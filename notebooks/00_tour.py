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
# # One bit per weight: a tour
#
# *5 minutes to look, longer to play. No GPU, no network: choose* Run → Run All Cells, *wait for the
# last picture (half a minute), and scroll back up.*
#
# A diffusion transformer draws an image by removing noise from it, step after step. All that it has
# learned is in its **weights**: large matrices of numbers, of 32 or 16 bits each. This tour shows
# what happens when every weight may keep about **one bit**. There is one picture for each idea;
# the notebook that explains it stands beside it.

# %%
from dpqlab.calibration.recording import TEACHER, bundled_recording
from dpqlab.diffusion import load_pipeline, resolve, weight_bytes
from dpqlab.nn import ledger_of_model
from dpqlab.viz.calibration_run import strip_picture
from dpqlab.widgets import (
    CalibrationView,
    CodebookImportance,
    ErrorMap,
    Pixels,
    PoolPruning,
    Prediction,
    VQAgainstPQ,
)

# %% [markdown]
# ## What is at stake
#
# The model that ships with dpqlab draws Fashion-MNIST: 28 × 28 pixels, ten kinds of clothes. Below,
# from the same noise: the **teacher** (full precision); a **student** of one bit per weight, as it
# is right after compression; and the same student after **calibration**.

# %%
run = bundled_recording("best-1bit")
rows = [bundled_recording(TEACHER).strips[0], run.strips[0], run.strips[-1]]
Pixels(
    strip_picture(rows, zoom=3),
    label="Top: the teacher. Middle: one bit, not calibrated. Bottom: one bit, calibrated.",
    zoom=1,
)

# %% [markdown]
# The middle row is the problem, the bottom row is the solution. Before you look at how: what is
# the gain?

# %%
teacher = ledger_of_model(load_pipeline("fashion-dit").transformer)
ratio = teacher.fp32_bytes / weight_bytes(resolve("fashion-dit-best-1bit"))
sizes = {8: "about 8 times", 22: "about 22 times", 32: "exactly 32 times"}
Prediction(
    "How many times smaller is the file of the last row than the teacher's weights in fp32?",
    list(sizes.values()),
    sizes[min(sizes, key=lambda times: abs(times - ratio))],
    f"It is {ratio:.1f} times smaller. 32 leaves nothing for codebooks, scales and biases, nor "
    "for what stays outside the blocks. Whatever is stored is counted here.",
)

# %% [markdown]
# ## 1. Cut the rows into pieces, and share the pieces
#
# A weight row is cut into **sub-vectors** of `d` numbers. Each is replaced by its **code**: the
# index of the most similar of `k` **codewords**. A code costs `log2(k)` bits, so a weight costs
# `log2(k) / d`. *Who shares a codebook* is the one dial between **vector quantization** (VQ: the
# whole layer) and **product quantization** (PQ: each column position has its own).
#
# Try: drag `k` down, and watch the error and the bits move against each other. →
# [`01_vq_vs_pq`](01_vq_vs_pq.ipynb)

# %%
VQAgainstPQ()

# %% [markdown]
# ## 2. Some codewords matter, some do not
#
# Codebooks cost bits too. Which codewords could go? The number of times a codeword is used is an
# easy answer. It is not the best one. → [`02_codebook_importance`](02_codebook_importance.ipynb)

# %%
CodebookImportance()

# %% [markdown]
# ## 3. Prune the pool
#
# Slide the budget: bytes, error and images follow. →
# [`03_pruning_the_pool`](03_pruning_the_pool.ipynb)

# %%
PoolPruning()

# %% [markdown]
# ## 4. Calibrate: learn from the teacher
#
# This is where the middle row becomes the bottom row. Press ▶ to replay the run. With
# `live: on this machine` you can train one yourself: a minute on two CPU cores.
# → [`04_calibration`](04_calibration.ipynb)

# %%
CalibrationView("best-1bit")

# %% [markdown]
# ## 5. Where the error goes
#
# Each block adds its error to that of the blocks before it, and each sampling step starts from what
# the step before left behind. Click a cell. →
# [`05_error_accumulation`](05_error_accumulation.ipynb)

# %%
ErrorMap()

# %% [markdown]
# ## What to remember
#
# - A weight of one bit is a *code*: an index into a small table of codewords that many weights
#   share.
# - Fitting the codewords to the weights alone destroys the model; making the *student do what the
#   teacher does* brings it back. The codes have to move as well.
# - True bits count everything: codes, codebooks, scales, biases.
#
# **Next:** [`01_vq_vs_pq`](01_vq_vs_pq.ipynb) to
# [`05_error_accumulation`](05_error_accumulation.ipynb) take one idea each, with something to
# predict
# and something to solve. [`06_sampling_and_speed`](06_sampling_and_speed.ipynb) measures this
# machine, [`07_your_own_model`](07_your_own_model.ipynb)
# compresses a model of yours.
#
# **Used here:** `dpqlab.calibration.recording.bundled_recording`,
# `dpqlab.diffusion.load_pipeline`, `dpqlab.diffusion.weight_bytes`, `dpqlab.nn.ledger_of_model`,
# `dpqlab.viz.calibration_run.strip_picture` and the views of `dpqlab.widgets`. Each view has
# **Show code**: the pure functions that make its figure without a widget.
