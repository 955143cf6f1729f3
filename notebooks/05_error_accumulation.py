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
# # Where the error goes
#
# *20 minutes. No GPU, no network: everything opens on recorded runs.*
#
# A compressed layer gives slightly wrong numbers. The next layer takes them as its input and adds
# its own mistakes; the next sampling step starts from the image that this one left.
#
# **What you will see:** how large the error of each block is on its own, how it grows from block to
# block, and how it grows from step to step. **Why it matters:** it tells where a bit more precision
# would help most, and whether a codec that stores weights better also draws better.

# %%
from ipywidgets import Accordion

from dpqlab.tracing import load_trace
from dpqlab.viz.error_curve import error_curve
from dpqlab.viz.error_map import error_map
from dpqlab.widgets import ErrorMap, Exercise, Plot, Prediction

# %% [markdown]
# ## Three questions to a block
#
# Teacher (full precision) and student (compressed) draw the same image from the same noise, in 20
# steps. At every step we stop at each of the 8 blocks and compare what comes out of it. What counts
# is the **relative squared error** of the block's output $h$, over all images, tokens and channels:
#
# $$ e = \frac{\sum \lVert h_{\text{student}} - h_{\text{teacher}} \rVert^2}
#             {\sum \lVert h_{\text{teacher}} \rVert^2} $$
#
# 0 is exact; 0.01 means that the error carries one percent of the energy of the signal. The
# teacher's side is always the same. What we may choose is *what the student's block is given*:
#
# | question | noisy image | input of the block | the error holds what was done wrong by |
# |---|---|---|---|
# | **local** | the teacher's | the teacher's | this block |
# | **one pass** | the teacher's | the student's own | this block and those before it |
# | **accumulated** | the student's own | the student's own | all of these, in all steps so far |

# %%
vq = load_trace("vq-1bit")
about = vq.about
print(
    f"{about.student}: {about.true_bits:.2f} true bits per weight, "
    f"{len(about.labels)} images, {about.steps} steps of {about.sampler}"
)

# %% [markdown]
# ## Predict
#
# The model has 8 blocks in a row, and 20 steps in a row. Errors can add up along both.

# %%
blocks, steps = vq.growth()
Prediction(
    "Along which of the two does the error of this student grow more?",
    ["from block to block", "from step to step"],
    "from block to block" if blocks > steps else "from step to step",
    f"On average over all blocks and steps, being carried through one pass makes an error "
    f"{blocks:.1f} times as large; being carried from step to step, another {steps:.2f} times.",
)

# %% [markdown]
# Why are steps gentler than blocks? A likely reason: a step moves the noisy image a little way
# only, and each later step looks at the image *as it is* and predicts anew. A wrong image is still
# an image, and a good denoiser pulls it towards something that looks like clothes. Inside one pass
# nothing pulls back: every block adds to the same stream of numbers.
#
# ## Look for yourself
#
# One map for each student that is ticked: blocks from top to bottom, steps from left to right, all
# on one logarithmic scale of colours. Above: the mean over blocks. To the right: each block over
# all steps. Below: the image that each model *expects to end with*, at every step.
#
# Try this:
#
# 1. Press **local**, **one pass**, **accumulated** in turn. Which blocks change most?
# 2. Click a cell at the lower right, then one at the upper left. The curves below show how the
#    errors of single tokens (patches of 4 × 4 pixels) are spread: are all patches equally wrong?
# 3. Tick `best-1bit`. It stores slightly less than `vq-1bit`. Where is it better?
# 4. Click another image. Does the error look like noise, or like a shape?

# %%
ErrorMap(["vq-1bit"])

# %% [markdown]
# Two things to notice. The **last steps** have the largest errors: there the image is nearly
# finished, and small details decide about the numbers. And the images agree in the end far better
# than at first: in the first steps the expected image is a guess from pure noise, in which any
# error is amplified.
#
# The button **Trace here** makes such a record on this machine, with four images, in about a
# minute: the student of the strip is loaded, and drawn beside the teacher. For more images:
#
# ```
# dpqlab trace fashion-dit fashion-dit-best-1bit --out best.npz --count 4
# ```

# %% [markdown]
# ## VQ against DPQ, at equal bits
#
# The paper on DPQ (arXiv 2411.12306, Figure 2, right) follows the error of VQ and of product
# quantization over the sampling steps. This is the same comparison on the small model that ships
# with dpqlab. Both students were calibrated, and store the same within 2 %, everything counted.
# The figure function refuses to compare students that do not.

# %%
dpq = load_trace("dpq-1bit")
errors = {"VQ": vq.error("accumulated").mean(), "DPQ": dpq.error("accumulated").mean()}
Prediction(
    f"VQ at {vq.about.true_bits:.3f} true bits, DPQ at {dpq.about.true_bits:.3f}: whose "
    "accumulated error, mean over blocks and steps, is smaller on this model?",
    list(errors),
    min(errors, key=errors.__getitem__),
    f"VQ {errors['VQ']:.3f}, DPQ {errors['DPQ']:.3f}. This is what was measured here, on a model "
    "of width 384 at one bit. It is no statement about models three times as wide.",
)

# %% [markdown]
# Open the curves when you have chosen.

# %%
curves = Plot(error_curve([vq, dpq]), label="Error of VQ and DPQ over the steps, at equal bits")
images = error_curve([vq, dpq], quantity="image")
pictured = Plot(images, label="Distance of the expected images from the teacher's")
Accordion([curves, pictured], titles=("errors of the blocks", "errors of the images"))

# %% [markdown]
# Solid: the student draws its own image. Dashed: it is given the teacher's at each step. What opens
# between the two lines towards the end is what the *steps* hand on.
#
# Why can VQ hold its own here? A likely reason: PQ gives each column position its own codebook,
# and a codebook costs bits. A layer that is 384 wide has only a few hundred rows to share the cost
# of each codebook, so at equal true bits PQ has to do with fewer codewords. In a layer three times
# as wide the same codebooks serve three times as many rows. [`01_vq_vs_pq`](01_vq_vs_pq.ipynb)
# lets you move that dial.
#
# A smaller error inside is not the goal: the image is. The second set of curves judges the same two
# students by the images that they expect to draw.

# %% [markdown]
# ## Two bits against one
#
# Twice the bits: how much less error? Both maps have one scale, so that colours can be compared.

# %%
two_bits = load_trace("best-2bit"), load_trace("best-1bit")
Plot(error_map(two_bits), label="Accumulated errors of the best student at two bits and at one")

# %% [markdown]
# ## Exercise
#
# `trace.error(measure)` is an array of blocks × steps. How many times larger is the accumulated
# error of the **last** block at the **last** step than its local error, for `vq`? Compute it in a
# cell, and enter the number.

# %%
right = vq.error("accumulated")[-1, -1] / vq.error("local")[-1, -1]

Exercise(
    "accumulated / local, last block, last step of vq",
    lambda given: (
        None
        if abs(given / right - 1) < 0.05
        else ("the other way round?" if given < 1 else "the last index of an axis is -1")
    ),
    'vq.error("accumulated")[-1, -1] / vq.error("local")[-1, -1]',
)

# %% [markdown]
# ## What to remember
#
# - *Local* error says what a block does wrong; *accumulated* error says what comes of it. Looking
#   at the first alone hides most of what the image suffers from.
# - Errors grow mostly **within one pass**, from block to block, and then some from step to step,
#   most of it in the last steps.
# - Two codecs can be compared at equal true bits only, and only by what was measured. Which one
#   wins depends on the model and on its calibration.
# - Calibration minimises exactly this: the error of the prediction and of every block's output
#   ([`04_calibration`](04_calibration.ipynb)).
#
# **Used here:** `dpqlab.tracing.load_trace`, `dpqlab.tracing.trace`,
# `dpqlab.viz.error_map.error_map`, `dpqlab.viz.error_curve.error_curve`,
# `dpqlab.widgets.ErrorMap`; the records were made by `recipes/trace_fashion.py`.
# **Next:** [`06_sampling_and_speed`](06_sampling_and_speed.ipynb).
