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
# # Codebook importance: which codewords could go?
#
# *20 minutes. No GPU, no network.*
#
# **What you will see.** Every codeword of a real layer, what it is worth by three measures, and
# what really happens to the layer when the least worthy ones are removed.
#
# **Why it matters.** Codewords are stored too. With 256 for every column position they are a
# large part of a small model, so some have to go. Remove the wrong ones and the model pays for
# it; and the obvious way to choose them is not the best.

# %%
from dpqlab.studies.codewords import output_error
from dpqlab.studies.removal_records import bundled_removals
from dpqlab.studies.removals import least, without
from dpqlab.viz.importance import promise_and_damage, removal_race
from dpqlab.widgets import CodebookImportance, Exercise, Plot, Prediction

# %% [markdown]
# ## The layer
#
# We look at the *query* projections of the attention: one matrix of 384 × 384 in each of the 8
# blocks of the bundled model. They are coded as in the preset `dpq-4bit`:
#
# - A row is cut into 192 **sub-vectors** of `d = 2` numbers.
# - Each of the 192 column **positions** has a **codebook** of `k = 256` **codewords**, which all
#   rows of all 8 blocks share.
# - All codebooks together are the **pool**: 192 × 256 = 49,152 codewords.
#
# The next cell makes these codebooks by k-means and measures them: two or three seconds.

# %%
view = CodebookImportance("attn1.to_q")
study = view.study
print(f"{len(study.scope):,} codewords stand for {int(study.worth['usage'].sum()):,} sub-vectors")

# %% [markdown]
# ## Three ways to ask what a codeword is worth
#
# Let $c$ be a codeword, and let the sum run over all sub-vectors $w$ that use it. A number in
# column $j$ of the weight is multiplied by the layer's input $x_j$; $m_j$ is the mean of
# $x_j^2$, measured on a few images that the model drew. A column with a small $m_j$ hardly
# matters.
#
# - **Usage**, $\sum 1$: how many sub-vectors use it.
# - **Weighted usage**, $\sum \overline{m}$ with $\overline{m}$ the mean of $m_j$ over the $d$
#   columns: the same, counted by how much flows in.
# - **Removal cost**, $\sum \big( \min_{c' \neq c} E(w, c') - E(w, c) \big)$ with
#   $E(w, c) = \sum_j m_j (w_j - c_j)^2$: how much worse it gets if they all must take the next best
#   codeword.
#
# The third is exact: it *is* the rise of the weighted error if this one codeword goes. (Some codecs
# have a scale for each row; it enters squared.) The paper, *Diffusion Product Quantization* (arXiv
# 2411.12306), prunes by usage and by similarity, and gives no formula for either.
#
# ## Predict: one codeword
#
# Take the single most important codeword of the whole pool, by removal cost, and remove it. We
# measure the error of the layers' *outputs*, on images that nothing was chosen by.


# %%
def rise_without_the_best() -> float:
    gone = study.worth["removal"] == study.worth["removal"].max()
    return output_error(without(study, gone)) / output_error(study) - 1


options = ["by less than 5 %", "by 5 to 50 %", "by more than a half"]


# %%
Prediction(
    "By how much does the output error of the layers rise?",
    options,
    lambda: options[(rise_without_the_best() >= 0.05) + (rise_without_the_best() >= 0.5)],
    lambda: (
        f"It rises by {rise_without_the_best():.2%}. It is one of 49,152, and its neighbour is a "
        "good substitute. You would not see it in an image. So we shall remove thousands."
    ),
)

# %% [markdown]
# ## Look around
#
# With two numbers to a codeword, a codebook can be drawn as it is. **Left:** the 256 codewords
# of one position, among the 3,072 sub-vectors (grey) that they stand for. **Right:** the same
# codewords by usage and by removal cost. **Below:** where the selected codeword is used.
#
# Try this:
#
# 1. Click a codeword in the thick of the crowd, then one at the edge (or use the arrow keys, and
#    Enter). Compare their usage, and how far their nearest neighbours are. Which is harder to
#    replace?
# 2. Move *Position*. Colours have one scale for all positions: where little flows in, all codewords
#    are cheap.
# 3. Switch the *Measure*. Crosses mark the 20 % of the pool that it calls least important. Usage
#    takes them from all positions alike, the other two from some positions nearly all.

# %%
view

# %% [markdown]
# (Leave the *Reveal* button for a moment.)
#
# ## Predict: remove 20 %
#
# Three teams each remove the 9,830 codewords that *their* measure calls least important, all at
# once. Then each sub-vector takes the best codeword that is left. Whose layers are least
# damaged?

# %%
recorded = bundled_removals("dpq-4bit").of("attn1.to_q")
NAMES = {"usage": "usage", "weighted": "weighted usage", "removal": "removal cost"}


def outcome(share: float, manner: str = "at once") -> dict[str, float]:
    found = [r for r in recorded.removals if (round(r.share, 2), r.manner) == (share, manner)]
    return {NAMES[r.measure]: r.output_error for r in sorted(found, key=lambda r: r.output_error)}


def told(share: float, manner: str = "at once") -> str:
    return ", ".join(f"{name} {error:.4f}" for name, error in outcome(share, manner).items())


# %%
Prediction(
    "20 % at once: whose output error is lowest?",
    list(NAMES.values()),
    lambda: next(iter(outcome(0.2))),
    lambda: (
        f"Held-out output errors: {told(0.2)}; {recorded.output_error:.4f} with all codewords. A "
        "codeword that is used often may have a twin beside it; a rare one may stand alone."
    ),
)

# %% [markdown]
# ## Predict: remove 70 %
#
# The winner knew *exactly* what each codeword costs. Now 34,406 codewords go at once.

# %%
Prediction(
    "70 % at once: whose output error is lowest now?",
    list(NAMES.values()),
    lambda: next(iter(outcome(0.7))),
    lambda: (
        f"Held-out output errors: {told(0.7)}. The exact measure is exact for one codeword at a "
        "time. Two neighbours stand in for each other: each alone is cheap, so both go, and "
        "nobody is left to stand in."
    ),
)

# %% [markdown]
# Press **Reveal** in the view above, or look here. Dotted: everything goes by one ranking. Solid: a
# tenth of what is left goes at a time, and importances are **made anew** after every round.

# %%
race = removal_race(recorded.removals, whole=recorded.output_error)
Plot(race, label="Held-out output error against the share of removed codewords")

# %% [markdown]
# Read it in three steps:
#
# 1. **Up to about a half**, the dotted lines are in the order that one expects: removal cost is
#    best, usage is worst.
# 2. **Beyond**, the dotted lines cross. A ranking that is never renewed loses its meaning.
# 3. **The solid lines never cross.** With importances made anew, the removal cost wins throughout.
#
# The next figure says the same by numbers: across, what the single costs add up to; upwards, what
# really happened. On the dashed line costs would add up.

# %%
Plot(promise_and_damage(recorded.removals), label="Predicted and true rise of the weighted error")

# %% [markdown]
# ## See it
#
# In the view, below the reveal: set *Remove* to 20 %, *Remove in* to `all kinds`, and press
# **Remove and draw**. It removes the share from the pools of *all* layers at once and draws six
# images. The first time takes a minute or two on two cores, most of it to make the other codebooks;
# **Stop** ends it. Do it for usage, then for removal cost: one of them spoils the images, the other
# can hardly be seen. Then do both at 50 %.
#
# With `this kind of layer` only the query projections are coded. Half of *their* codewords can go,
# by removal cost, and nothing is to be seen.
#
# ## What this means for a whole model
#
# Measured on whole models (`benchmarks/results/importance.jsonl`; uncalibrated, judged by the
# predicted noise on trajectories that nothing was chosen by): pruned step by step to a budget of
# 1/4, the removal cost leaves **0.50 times** the error of usage at `dpq-4bit` and 0.67 times at
# `dpq-3bit`. It takes two to three times as long. If similar codewords are merged first, as the
# paper does, that decides more than the measure: the factors become 0.99 and 0.80.
#
# And a limit: for *random* groups of codewords no measure predicted well which group would do
# the most damage to the model (rank correlations from −0.03 to 0.34). A measure is good for what
# it was made for, to choose those that may go.
#
# ## Exercise

# %%
Exercise(
    "d = 1 and all inputs count alike (m = 1). The values 1.0, 1.2 and 0.9 use the codeword 1.0. "
    "The only other codeword is 1.5. What is the removal cost of 1.0?",
    lambda cost: (
        None
        if abs(cost - 0.65) < 0.006
        else "for each value: squared distance to 1.5, less that to 1.0; then add up"
    ),
    "(1.0 - 1.5)**2 + (1.2 - 1.5)**2 + (0.9 - 1.5)**2 = 0.25 + 0.09 + 0.36 = 0.70\n"
    "(1.0 - 1.0)**2 + (1.2 - 1.0)**2 + (0.9 - 1.0)**2 = 0    + 0.04 + 0.01 = 0.05\n"
    "0.70 - 0.05 = 0.65",
)

# %% [markdown]
# And one to compute, with the functions that the view calls: how many of the 9,830 codewords that
# *usage* would remove are also among those that *removal cost* would remove?

# %%
both = int((least(study, "usage", 9830) & least(study, "removal", 9830)).sum())
Exercise(
    "How many codewords are on both lists? (Change a cell, or use least() in a new one.)",
    lambda n: None if n == both else "combine two lists with &, then sum",
    "int((least(study, 'usage', 9830) & least(study, 'removal', 9830)).sum())",
)

# %% [markdown]
# ## Summary
#
# - A codeword may be used often and still be easy to replace. **Removal cost** counts what matters.
# - It is exact for one codeword and wrong for many at once: **neighbours stand in for each other**.
# - So codewords go in small rounds, and importances are made anew after each. That is what pruning
#   does: → [`03_pruning_the_pool`](03_pruning_the_pool.ipynb).
#
# **Functions used:** `dpqlab.core.importance.importance` (the three measures),
# `dpqlab.studies.codewords.study_of`, `output_error`, `dpqlab.studies.removals.least`, `without`,
# `race_steps`, `dpqlab.viz.importance.codeword_map`, `removal_race`, `promise_and_damage`.
