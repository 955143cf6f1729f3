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
# # Your own model
#
# *15 minutes.*
#
# **What you will see.** A diffusers transformer that dpqlab has never met: what a plan of your own
# will make of it is said beforehand (bits, bytes, seconds, memory), then it is compressed, and the
# two are compared. It is saved, loaded back bit by bit, and traced block by block. Then another
# architecture.
#
# **Why it matters.** The bundled model is an example. The question that people ask of such a tool
# is whether it works for *theirs*.
#
# The model here is small and has random weights, so that everything takes seconds and nothing has
# to be downloaded. Its images mean nothing; its numbers are as real as any.

# %%
import copy
import tempfile
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel

from dpqlab.checkpoint import load_compressed, save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import SampleRequest, make_scheduler
from dpqlab.nn import Plan, compress_, ledger_of_model, preset
from dpqlab.nn.expectation import expect_
from dpqlab.nn.resident import PeakMemory, resident_bytes
from dpqlab.tracing import Pair, trace
from dpqlab.viz.error_map import error_map
from dpqlab.viz.ledger import ledger_bars
from dpqlab.widgets import Exercise, Plot, Prediction

# %%
torch.manual_seed(0)
teacher = DiTTransformer2DModel(
    num_attention_heads=4, attention_head_dim=32, num_layers=4, patch_size=4,
    sample_size=16, in_channels=3, out_channels=3, num_embeds_ada_norm=10,
).eval()  # fmt: skip
print(f"{sum(p.numel() for p in teacher.parameters()):,} parameters")

# %% [markdown]
# With a model of yours, this is the only cell that changes:
# `DiTTransformer2DModel.from_pretrained(FOLDER, local_files_only=True)`.
#
# ## A plan
#
# A **plan** says which layers become what. Its patterns match the *kind* of a layer, its name
# within the block. Which kinds are there?

# %%
block = teacher.transformer_blocks[0]
for name, module in block.named_modules():
    if isinstance(module, torch.nn.Linear):
        print(f"{name:40} {tuple(module.weight.shape)}")

# %% [markdown]
# Attention gets PQ here, all else VQ. A codec costs `log2(k) / d` bits a weight in codes; the
# codebooks come on top:
#
# $$ \text{true bits} = \frac{\log_2 k}{d}
#    + \frac{16 \cdot d \cdot k \cdot (\text{codebooks})}{\text{weights}}
#    + \frac{\text{scales, biases}}{\text{weights}} $$

# %%
plan = Plan.for_blocks(
    {
        "attn1.*": CodebookCodec(d=4, k=16, scope="position", row_scale=True),
        "*": CodebookCodec(d=4, k=64, scope="layer"),
    }
)

# %% [markdown]
# ## What will it cost?
#
# With a large model this is the question to ask first. Bits and bytes follow from the shapes alone,
# so a copy without weights (on torch's *meta* device) is enough. Seconds are estimated from a
# moment of k-means on random numbers, here and now. Memory is what the largest step needs, on top
# of what Python and its libraries take anyway.

# %%
expected = expect_(copy.deepcopy(teacher).to("meta"), plan)
print(f"true bits  {expected.ledger.true_bits_per_weight:.3f} per weight")
print(f"bytes      {expected.bytes:,}, of them {expected.kept_bytes:,} kept as they are")
print(f"seconds    {expected.seconds:.1f}")
print(f"memory     {expected.workspace.total / 1e6:.1f} MB")
print(f"           beside the {resident_bytes() / 1e6:.0f} MB that this notebook has now")

# %% [markdown]
# From a terminal, `dpqlab plan FOLDER --preset NAME` says the same of a folder, layer by layer. For
# a DiT-XL/2 (675 M weights) with `best-1bit` it says 97 MB instead of 2.7 GB, some minutes on two
# cores, and about one gigabyte of memory.
#
# Now do it.

# %%
student = copy.deepcopy(teacher)
with PeakMemory() as memory:
    done = compress_(student, plan)
print(f"{done.ledger.true_bits_per_weight:.3f} true bits, {len(done.layers)} layers compressed")

# %% [markdown]
# ## Where do the bits go?
#
# PQ with 16 codewords has codes of 1 bit a weight, VQ with 64 has 1.5 bits. But PQ has a codebook
# for *every* position.

# %%
layers = {layer.name.removeprefix("transformer_blocks.0."): layer for layer in done.layers[:6]}
for name, layer in layers.items():
    print(f"{name:18} {layer.codec:24} {layer.ledger.true_bits:5.2f} bits "
          f"error {layer.relative_error:.3f}")  # fmt: skip

# %%
query = layers["attn1.to_q"].ledger
share = query.pool / query.total
options = ["below a tenth", "about a third", "more than half"]
Prediction(
    "Of all bits of attn1.to_q (128 x 128, PQ with k = 16), how many are codebooks?",
    options,
    options[(share > 0.1) + (share > 0.5)],
    f"{share:.0%}: 32 positions, each with 16 codewords of 4 numbers in 16 bits, beside "
    f"{query.codes:,} bits of codes. A layer of 128 rows is too small for PQ; at 1152 "
    "rows the same codebooks would weigh a ninth of that.",
)

# %%
before = ledger_of_model(copy.deepcopy(teacher).bfloat16())
ledgers = {"teacher, bf16": before, "student": done.ledger}
Plot(ledger_bars(ledgers), label="Megabytes of teacher and student by part")

# %% [markdown]
# The grey part is what no plan touches: embedders and what else stands outside the blocks. In a
# model this small it is most of what is left; in DiT-XL/2 it is a few per cent.

# %% [markdown]
# ## Save, load, and be sure
#
# A compressed folder has the layout of diffusers: safetensors and JSON, and a manifest with the
# hash of every file. Nothing in it is code. What is loaded must be *bit-equal* to what was saved.

# %%
folder = Path(tempfile.mkdtemp()) / "my-student"
scheduler = make_scheduler("ddim")
saved = save_compressed(
    student,
    folder,
    scheduler_config=dict(scheduler.config) | {"_class_name": "DDIMScheduler"},
    provenance={"source": "random weights"},
    card="# My student",
)
print(f"{saved.bytes_on_disk / 1e6:.2f} MB in {len(saved.files)} files")

# %%
again = load_compressed(folder)
x, times, classes = torch.randn(2, 3, 16, 16), torch.tensor([10, 900]), torch.tensor([3, 7])
with torch.no_grad():
    wanted = student(x, timestep=times, class_labels=classes).sample
    found = again(x, timestep=times, class_labels=classes).sample
print("bit-equal:", torch.equal(wanted, found))

# %% [markdown]
# ## Was the forecast right?

# %%
seconds = sum(layer.seconds for layer in done.layers)
rows = {
    "true bits": (expected.ledger.true_bits_per_weight, done.ledger.true_bits_per_weight),
    "megabytes": (expected.bytes / 1e6, saved.bytes_on_disk / 1e6),
    "seconds": (expected.seconds, seconds),
    "MB of memory": (expected.workspace.total / 1e6, (memory.peak - memory.before) / 1e6),
}
for name, (said, found) in rows.items():
    print(f"{name:14} expected {said:8.3f}   found {found:8.3f}")

# %% [markdown]
# Bits are exact, always. The files are a little larger than their contents: names, shapes,
# settings. Seconds depend on what else the machine does; the very first run also compiles its
# loops, once.
# Memory says little in a model this small, where a few megabytes are lost among the libraries: of
# models with 38 to 670 million weights, compressed from their files by `dpqlab compress`, the
# forecast (libraries included) was within a tenth of the measured peak.

# %% [markdown]
# ## Trace it
#
# Along the sampling trajectory: how far is each block's output from the teacher's, at each step?
# This is the map of [`05_error_accumulation`](05_error_accumulation.ipynb), for your model.

# %%
pair = Pair(teacher=teacher, student=student, teacher_name="mine", student_name="mine, PQ and VQ")
record = trace(pair, SampleRequest(labels=(1, 2), steps=8))
figure = error_map([record])
Plot(figure, label="Relative error of each block at each sampling step")

# %% [markdown]
# ## Another architecture
#
# `compress_` asks for nothing but a list of blocks. A PixArt transformer (text to image, with
# cross-attention) has one too, here as small as the other. Saving and sampling are for DiTs today;
# compressing, counting and multiplying work for any model of Linears.

# %%
pixart = PixArtTransformer2DModel(
    num_attention_heads=4, attention_head_dim=32, num_layers=3, sample_size=16,
    cross_attention_dim=128, caption_channels=64,
)  # fmt: skip
other = compress_(pixart, preset("vq-2bit"))
kinds = sorted({layer.name.split(".", 2)[2] for layer in other.layers})
print(f"{other.ledger.true_bits_per_weight:.2f} true bits; kinds: {', '.join(kinds)}")

# %% [markdown]
# More than its name says: 256 codewords of 4 numbers are 16,384 bits, as many as this small layer
# has weights. In a layer of 1152 × 1152 they would be 0.01 bits a weight.
#
# ## Exercise
#
# Find a codec for all layers of the DiT of this notebook, with at most **1.95 true bits** and a
# mean error below **0.1**. More codewords lower the error, and cost bits. Who could share them?


# %%
def check(codec: object) -> str | None:
    if not isinstance(codec, CodebookCodec):
        return "give a codec, such as codec = CodebookCodec(d=4, k=32, scope='layer')"
    tried = compress_(copy.deepcopy(teacher), Plan.for_blocks(codec))
    error = sum(layer.relative_error for layer in tried.layers) / len(tried.layers)
    bits = tried.ledger.true_bits_per_weight
    return None if bits <= 1.95 and error < 0.1 else f"{bits:.2f} true bits, mean error {error:.3f}"


exercise = Exercise(
    "Set codec in the cell below, and run exercise.check(codec).",
    check,
    "Small layers cannot pay for a codebook each. Let the same layer of all blocks share one:\n"
    "CodebookCodec(d=4, k=128, scope='layer', across='kind')",
)
exercise

# %%
codec = CodebookCodec(d=4, k=32, scope="layer")
exercise.check(codec)

# %% [markdown]
# ## Summary
#
# - A plan is a table from kinds of layers to codecs; `compress_` puts it into any model of Linears.
# - Ask what it will cost before you compress: shapes are enough to know.
# - Codebooks are a fixed cost. Small layers cannot carry many: share them.
# - A compressed folder comes back bit by bit, or not at all.
#
# **Used here:** `dpqlab.nn.Plan`, `compress_`, `preset`; `dpqlab.nn.expectation.expect_`;
# `dpqlab.checkpoint.save_compressed`, `load_compressed`; `dpqlab.viz.ledger.ledger_bars`;
# `dpqlab.tracing.trace`. From a terminal: `dpqlab plan FOLDER --preset best-2bit`,
# `dpqlab compress FOLDER OUT --preset best-2bit`, `dpqlab calibrate OUT CALIBRATED`.
