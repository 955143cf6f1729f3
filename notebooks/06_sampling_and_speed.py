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
# # Sampling and speed: what a small model saves here
#
# *15 minutes. Everything is measured while you wait, on this machine.*
#
# **What you will see.** The memory that a compressed model takes, the time of a sampling step in
# three ways, and how near its images are to the teacher's at the same seed.
#
# **Why it matters.** A small file is not a small model, and a small model is not a fast one.
# Papers often give the file. Whoever wants to run a model needs the other two, and they depend on
# *how* the packed weights are multiplied. Here the numbers are your machine's, so they differ from
# your neighbour's.

# %%
import os
import time

import torch

from dpqlab.diffusion import SampleRequest, load_pipeline, resolve, sample_images, weight_bytes
from dpqlab.evaluation.bundled import bundled_feature_net
from dpqlab.evaluation.features import extract
from dpqlab.evaluation.fidelity import agreement, feature_cosine, psnr
from dpqlab.nn import hold_decoded, ledger_of_model
from dpqlab.viz.calibration_run import strip_picture
from dpqlab.viz.ledger import ledger_bars
from dpqlab.widgets import Exercise, Pixels, Plot, Prediction

FAST = os.environ.get("DPQLAB_FAST") == "1"
print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")

# %% [markdown]
# ## Memory
#
# The ledger counts every stored bit. **True bits** are all bits of the Linears inside the blocks
# over the number of their weights. The embedders, the position table and the output layer stand
# outside the blocks; they stay in bf16 and appear as *kept*.

# %%
names = ["fashion-dit", "fashion-dit-best-2bit", "fashion-dit-best-1bit"]
pipelines = {name: load_pipeline(name) for name in names}
ledgers = {name: ledger_of_model(pipe.transformer) for name, pipe in pipelines.items()}
for name, ledger in ledgers.items():
    file = weight_bytes(resolve(name)) / 1e6
    bits, memory = ledger.true_bits_per_weight, ledger.stored_bytes / 1e6
    print(
        f"{name:22} {bits:6.3f} true bits  {memory:6.2f} MB in memory  {file:6.2f} MB in its file"
    )

# %%
students = {name: ledgers[name] for name in names[1:]}
Plot(ledger_bars(students), label="Megabytes of the compressed models by part")

# %% [markdown]
# (The teacher's line: it is loaded as fp32, 32 bits a weight, to compute in; its file holds bf16.)
#
# ## Time
#
# A **step** of sampling runs the model once over the batch, twice as large with guidance. Three
# ways to do it:
#
# - **dense**: the teacher, weights as they are;
# - **packed**: every layer unpacks its codes, looks up codewords, multiplies, and forgets the
#   matrix again: `W = scale · codebook[code]`, at each step anew;
# - **held**: `hold_decoded` decodes once before sampling, and keeps dense weights as long as it
#   lasts.


# %%
@torch.no_grad()
def ms_a_step(transformer, images: int, repeats: int = 2 if FAST else 3) -> float:
    """Time of the fastest call of the model, in milliseconds: what else runs here only adds."""
    x, times = torch.randn(images, 1, 28, 28), torch.full((images,), 500)
    labels, seconds = torch.arange(images) % 10, []
    for _ in range(1 + repeats):  # the first one warms up
        started = time.perf_counter()
        transformer(x, timestep=times, class_labels=labels)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds[1:])


# %%
teacher, student = (pipelines[name].transformer for name in (names[0], names[2]))


def measured(images: int) -> dict[str, float]:
    found = {"dense": ms_a_step(teacher, images), "packed": ms_a_step(student, images)}
    with hold_decoded(student):
        return found | {"held": ms_a_step(student, images)}


timing = {images: measured(images) for images in (2, 20)}

# %% [markdown]
# The numbers appear with the answer.

# %%
ratio = timing[2]["packed"] / timing[2]["dense"]
table = "; ".join(
    f"batch of {images}: " + ", ".join(f"{way} {ms:.0f} ms" for way, ms in times.items())
    for images, times in timing.items()
)
Prediction(
    "One image with guidance is a batch of 2. On this machine's CPU, a step of the packed student, "
    "which is a twentieth of the teacher's size, is …",
    ["faster", "about as fast (within 25 %)", "slower"],
    "faster" if ratio < 0.8 else "slower" if ratio > 1.25 else "about as fast (within 25 %)",
    f"Packed takes {ratio:.1f} times as long as dense. All of it: {table}.",
)

# %% [markdown]
# What to read off (if your numbers disagree, something else was running: run the cells again):
#
# - Decoding costs the same whatever the batch; the multiplication grows with it. So *packed* looks
#   worst at small batches, and the gap closes as the batch grows.
# - *Held* is as fast as dense, because it is dense. It pays with memory: all that was saved, but
#   for the file.
#
# Why does less memory not mean less time? A matrix multiplication takes at least
#
# $$ t \ge \max\left(\frac{2 \cdot N \cdot \text{weights}}{\text{operations a second}},
#    \frac{\text{bytes of the weights}}{\text{bytes a second}}\right) $$
#
# for $N$ tokens. Compression makes the right term small. With 49 tokens an image the left one is
# larger already on a CPU, and plain PyTorch writes the decoded matrix to memory before it reads it
# again: nothing is gained. A **kernel** that decodes inside the multiplication, in registers, gets
# at the right term. dpqlab has none yet: that is later work, and no number here claims otherwise.

# %% [markdown]
# ## Fidelity at the same seed
#
# Same noise, same steps, same guidance. A model that is only *as good* would draw other clothes;
# one that is *faithful* draws the teacher's.

# %%
request = SampleRequest(labels=tuple(range(4 if FAST else 10)), seed=11, steps=6 if FAST else 10)
drawn = {}
for name, pipeline in pipelines.items():
    with torch.no_grad(), hold_decoded(pipeline.transformer):
        drawn[name] = sample_images(pipeline.transformer, pipeline.scheduler, request)
label = "Same seeds, from top to bottom: full precision, two bits, one bit"
Pixels(strip_picture([images.numpy() for images in drawn.values()]), label=label, zoom=1)

# %%
net = bundled_feature_net()
seen = {name: extract(net, images) for name, images in drawn.items()}
wanted = seen["fashion-dit"]
for name in names[1:]:
    decibel = psnr(drawn[name].numpy(), drawn["fashion-dit"].numpy()).mean()
    cosine = feature_cosine(seen[name].features, wanted.features).mean()
    same = agreement(seen[name].predictions, wanted.predictions)
    print(f"{name:22} PSNR {decibel:4.1f} dB  feature cosine {cosine:.3f}  same class {same:.0%}")

# %% [markdown]
# PSNR compares pixels, the feature cosine what a classifier sees, *same class* its verdicts. These
# are a few images; the README's table has ten thousand.
#
# ## Exercise
#
# How long does a sheet take? Do not run it: compute it. Guidance doubles the batch, and every step
# calls the model once.


# %%
def check(seconds: object) -> str | None:
    expected = 50 * timing[20]["dense"] / 1000
    if abs(float(seconds) - expected) < 0.1 * expected:
        return None
    return "how many images are in a batch with guidance, and how often is the model called?"


Exercise(
    "Ten images, guidance 1.5, 50 steps with the dense teacher: how many seconds will it take "
    "here? Use the dictionary timing.",
    check,
    "Ten images with guidance are a batch of 20, and 50 steps call the model 50 times:\n"
    "50 * timing[20]['dense'] / 1000",
)

# %% [markdown]
# ## Summary
#
# - Three numbers, three questions: bytes in the file, bytes in memory, milliseconds a step.
# - Decoding in plain PyTorch saves memory and costs time, mostly at small batches; `hold_decoded`
#   gives the time back and takes the memory.
# - At the same seed, one bit draws nearly what full precision draws.
#
# **Used here:** `dpqlab.nn.ledger_of_model`, `dpqlab.viz.ledger.ledger_bars`,
# `dpqlab.nn.hold_decoded`, `dpqlab.diffusion.sample_images`, `dpqlab.evaluation.fidelity`. From a
# terminal: `dpqlab sample`, `dpqlab inspect`. **Next:**
# [`07_your_own_model`](07_your_own_model.ipynb).
