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
# *20 minutes. Measured while you wait, on this machine, but for the part that says it is recorded.*
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
from IPython.display import Markdown
from torch.nn import functional as F

from dpqlab.diffusion import (
    RuntimeConfig,
    SampleRequest,
    load_pipeline,
    prepare_runtime,
    resolve,
    sample_images,
    weight_bytes,
)
from dpqlab.evaluation.bundled import bundled_feature_net
from dpqlab.evaluation.features import extract
from dpqlab.evaluation.fidelity import agreement, feature_cosine, psnr
from dpqlab.kernels.ops import linear
from dpqlab.nn import hold_decoded, ledger_of_model
from dpqlab.speed import DIT_XL_2, MODULATION, coded_layers, time_together
from dpqlab.studies.recorded_speed import bundled_speed, step_table
from dpqlab.viz.calibration_run import strip_picture
from dpqlab.viz.kernel_steps import kernel_steps, row_steps
from dpqlab.viz.ledger import ledger_bars
from dpqlab.viz.roofline import roofline
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
# - **packed**: every layer is decoded tile by tile, `W = scale · codebook[code]`, in the cache of a
#   core, and multiplied there; at each step anew, and never in whole;
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
# - Decoding costs the same whatever the batch; the multiplication grows with it. So what decoding
#   costs shows at small batches, and the gap closes as the batch grows.
# - The dense weights of a step have to come from memory; packed ones are a tenth of that. On two
#   cores the one about pays for the other.
# - *Held* is as fast as dense, because it is dense. It pays with memory: all that was saved, but
#   for the file.
#
# ## What a kernel does with a code
#
# One row of a real modulation layer, its first sub-vectors, and its input. Codes lie in the stream
# back to back, a few bits each. Two ways lead to the same number: **decode** the row and
# multiply, or make a **table** of the input's products with all codewords, once for all rows, and
# look up one sum a code. The table wins where few rows of input meet many rows of weights.

# %%
block = pipelines[names[2]].transformer.transformer_blocks[3]
with torch.no_grad():  # what the layer sees at timestep 500, for a class
    x = F.silu(block.norm1.emb(torch.tensor([500]), torch.tensor([5])))[0]
steps = row_steps(block.norm1.linear.coded(), x)
Plot(kernel_steps(steps), label="From bits to codes to codewords to a product, two ways")

# %% [markdown]
# The modulation layers see one row an image: timestep and class. Here is one of DiT-XL/2's size,
# 1152 to 6912, with one row of input, dense and from tables:

# %%
kind = next(kind for kind in DIT_XL_2 if kind.name == MODULATION)
one, dense = torch.randn(1, kind.shape[1]), torch.randn(kind.shape)
coded = {name: coded_layers(name, kind, device="cpu")[0] for name in ("dpq-2bit", "dpq-1bit")}
works = {"dense": lambda: F.linear(one, dense)} | {
    name: lambda weight=weight: linear(one, weight) for name, weight in coded.items()
}
rounds = time_together(works, device="cpu", rounds=3 if FAST else 9, passes=2 if FAST else 8)
for name, timing_of in rounds.items():
    faster = rounds["dense"].median / timing_of.median
    print(f"{name:9} {1000 * timing_of.median:6.2f} ms  {faster:4.1f} times as fast as dense")

# %% [markdown]
# ## A runtime
#
# `prepare_runtime` takes a model, dense or compressed, and computes the same faster: timestep and
# class are known before sampling begins, so their layers (a third of the weights) can run **ahead**
# for the whole schedule; queries, keys and values are one product.

# %%
for name in (names[0], names[2]):
    for modulation in ("ahead", "per step"):
        config = RuntimeConfig(modulation=modulation)
        runtime = prepare_runtime(pipelines[name].transformer, config)
        held = runtime.weight_bytes.total / 1e6
        print(f"{name:22} {modulation:8} {ms_a_step(runtime, 2):5.0f} ms a step, {held:5.1f} MB")

# %% [markdown]
# ## On a large GPU
#
# Recorded on an H100 with DiT-XL/2 (random weights; speed does not look at values). $M$ is the
# number of rows: 2 for the modulation of one image with guidance, 512 for its tokens. (torchao's
# int8 fell back to a slow path in that set-up, which shows nothing, and is left out.)

# %%
recorded = bundled_speed()
one_bit = recorded.layer("28 modulation layers", 2, "dpq-1bit")
tokens = recorded.layer("token layers", 512, "dpq-1bit, decoding aside")
Prediction(
    "Weights of one bit are a sixteenth of the bytes of bf16. On the H100, how much faster are the "
    "modulation layers at M = 2, and the token layers at M = 512?",
    ["16 times, 16 times", "about 8 times, about as fast", "as fast, 16 times"],
    "about 8 times, about as fast",
    f"{one_bit.speed:.1f} times and {tokens.speed:.2f} times. With 2 rows bytes are the limit (and "
    "look-ups, which take as long). With 512 arithmetic is, and decoding comes on top.",
)

# %%
Plot(roofline(recorded.layer_records()), label="Speed against FLOPs per byte, below the roof")

# %% [markdown]
# A matrix multiplication takes at least
#
# $$ t \ge \max\left(\frac{2 \cdot N \cdot \text{weights}}{\text{operations a second}},
#    \frac{\text{bytes of the weights}}{\text{bytes a second}}\right) $$
#
# for $N$ rows: the roof. Compression moves a point to the right, and up only where it stands on the
# slope. And whole steps of sampling:

# %%
shown = [one for one in recorded.steps if one.images == 1 and "eager" not in one.way]
Markdown(step_table(shown))

# %% [markdown]
# Most of what is gained over diffusers with `torch.compile` comes from the runtime, which does as
# much for dense weights. What compression adds is memory: a tenth.

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
# - Fewer bytes are faster where bytes are the limit: few rows. With many rows arithmetic is, and
#   packed weights can at best keep up; `hold_decoded` gives up the memory for the rest.
# - At the same seed, one bit draws nearly what full precision draws.
#
# **Used here:** `dpqlab.nn.ledger_of_model`, `dpqlab.viz.ledger.ledger_bars`,
# `dpqlab.nn.hold_decoded`, `dpqlab.diffusion.prepare_runtime`, `dpqlab.kernels.ops.linear`,
# `dpqlab.viz.roofline.roofline`, `dpqlab.evaluation.fidelity`. From a terminal: `dpqlab bench`,
# `dpqlab sample`, `dpqlab inspect`. **Next:**
# [`07_your_own_model`](07_your_own_model.ipynb).
