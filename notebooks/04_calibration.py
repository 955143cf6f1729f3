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
# # Calibration: what it repairs, and what not
#
# *20 minutes, one of them waiting while your machine trains.*
#
# **What you will see.** A model of one or two bits draws noise right after compression. A few
# minutes of training later it draws what its teacher draws, with not one bit more. You replay such
# a run, step by step, and then do one yourself.
#
# **Why it matters.** Codewords that lie close to the *weights* do not make a model that *acts* like
# the teacher. Calibration asks for the second thing, directly. It is the difference between an
# unusable model and a good one, at the same size.

# %%
from dpqlab.calibration.recording import bundled_recording, bundled_recordings
from dpqlab.core import relative_error
from dpqlab.diffusion import load_pipeline
from dpqlab.nn import CompressedLinear
from dpqlab.viz.calibration_run import compare_runs
from dpqlab.widgets import CalibrationView, Exercise, Plot, Prediction

# %% [markdown]
# ## What is minimised
#
# The student is shown the same noisy image $x_t$, timestep $t$ and class $y$ as the teacher. It
# pays for every difference, in the noise that it predicts and in what its $B$ blocks put out:
#
# $$
# L = \underbrace{
#     \lVert \hat\epsilon(x_t, t, y) - \epsilon(x_t, t, y) \rVert^2}_{\text{predicted noise}}
#   + 0.1 \cdot \underbrace{\frac{1}{B} \sum_{b=1}^{B}
#     \frac{\lVert \hat h_b - h_b \rVert^2}{\lVert h_b \rVert^2}}_{\text{outputs of the blocks}}
# $$
#
# A hat marks the student. This is **distillation**; no label and no real image is needed. The paper
# (*Diffusion Product Quantization*, arXiv 2411.12306) minimises the diffusion loss instead, the
# distance to the noise that was put into a real image, and chooses codes anew now and then: an
# E-step for the codes, an M-step for the codewords.
#
# The gradient reaches **codewords**, row scales and biases as it reaches any weight: all weights
# with one code pull at one codeword, and it moves to where they agree. A **code** is a whole number
# and has no gradient. There are three things to do about that:
#
# | codes | how | presets |
# |---|---|---|
# | stay | what k-means chose, for good | `pq` |
# | E-step | now and then, those that rebuild the layer's output best | `vq`, `dpq` (the paper) |
# | move | a *latent*, unquantized, takes the gradient; its nearest codeword is the code | `best` |

# %% [markdown]
# ## Predict
#
# `best-1bit` was trained for 10,000 steps, some four minutes on a large GPU. Its held-out error, on
# images that it was never trained on, fell to less than a hundredth.

# %%
run = bundled_recording("best-1bit")
first, early, last = (run.records[i].total for i in (0, 1, -1))
Prediction(
    f"After the first {run.records[1].step} of {run.records[-1].step:,} steps, how much is left of "
    "the error at the start?",
    ["about a half", "about a tenth", "less than a twentieth"],
    "less than a twentieth" if early / first < 0.05 else "about a tenth",
    f"{early / first:.1%} is left after 5 % of the run, {last / first:.1%} at its end. "
    "The first steps repair what is coarse; what makes images sharp takes the rest.",
)

# %% [markdown]
# ## Replay it
#
# Press ▶, or move the slider; the arrow keys work too. Look for three things:
#
# 1. **Samples.** At step 0 nothing is there. From the second moment on you see clothes. What still
#    changes after that?
# 2. **Blocks.** The first block is nearest to the teacher, all along. Why would error grow from
#    block to block?
# 3. **Codes changed.** A third of all codes change between two points at first. By the end, as the
#    learning rate goes to zero, hardly any do.

# %%
CalibrationView("best-1bit")

# %% [markdown]
# (To question 2: a block is fed by the student's own blocks before it, so it inherits their error
# and adds its own. [`05_error_accumulation`](05_error_accumulation.ipynb) takes the two apart.)
#
# ## Do it yourself
#
# Below is the same view, set to run here. **Run** compresses the bundled model to 2 bits with one
# codebook a layer (`vq-2bit`, k-means on the weights alone), then trains it: 40 steps of 16
# images, the codes stay. On two cores it takes about a minute. While it runs, this notebook stays
# usable, and **Stop** ends it whenever you like: the student then keeps its best state.
#
# Watch the samples every eight steps. Then try `pq-2bit`: same bits, another way to share
# codebooks. It starts from deeper noise; does it catch up within as many steps?

# %%
CalibrationView("live")

# %% [markdown]
# The images that it trains on were drawn by the teacher. So a model can be calibrated by somebody
# who has the model and nothing else.
#
# ## Compare
#
# All recorded runs. The right panel is the one to read: two runs can be compared only where they
# stand above the same true bits.

# %%
figure = compare_runs(bundled_recordings())
Plot(figure, label="Held-out error of the recorded runs over steps, and against true bits")

# %% [markdown]
# ## What calibration does not repair
#
# The calibrated student *acts* like the teacher. Does it also *look* like the teacher, weight by
# weight? Take the relative squared error of its weights: 0 is a copy, 1 is as far off as a matrix
# of zeros.

# %%
teacher = load_pipeline("fashion-dit").transformer
student = load_pipeline("fashion-dit-best-1bit").transformer
packed = {n: m for n, m in student.named_modules() if isinstance(m, CompressedLinear)}
errors = [
    relative_error(teacher.get_parameter(f"{name}.weight"), layer.decode())
    for name, layer in packed.items()
]
weights_apart = sum(errors) / len(errors)

# %%
options = ["below 0.05: nearly a copy", "0.05 to 0.3", "above 0.3: another matrix"]
Prediction(
    "How far are the calibrated weights from the teacher's, on average over the layers?",
    options,
    options[(weights_apart > 0.05) + (weights_apart > 0.3)],
    f"It is {weights_apart:.2f}, while the held-out error of what the model does is {last:.4f}. "
    "Many matrices do the same; calibration finds one that can be stored.",
)

# %% [markdown]
# So do not judge a calibrated model by the error of its weights, and do not expect one number to be
# good because another one is.
#
# ## Exercise


# %%
def check(steps: object) -> str | None:
    records = bundled_recording("best-2bit").records
    wanted = next(r.step for r in records if r.total < records[0].total / 50)
    if steps == wanted:
        return None
    return "which is the first record whose total is below a fiftieth of the first one's?"


Exercise(
    "At which step of the recorded run best-2bit has the held-out error fallen below a fiftieth "
    "of where it began? Read it off the view, or use bundled_recording('best-2bit').records.",
    check,
    "records = bundled_recording('best-2bit').records\n"
    "next(r.step for r in records if r.total < records[0].total / 50)",
)

# %% [markdown]
# ## Summary
#
# - Calibration trains codewords, scales and biases by gradient, to do what the teacher does. It
#   needs no data, and adds not one bit.
# - Most of the error goes within the first few per cent of a run.
# - Codes that move are worth the most (`docs/results.md`, *Which part earns what*).
# - The weights do not come back. What the model does comes back.
#
# **Used here:** `dpqlab.calibration.calibrate` (a generator of records),
# `dpqlab.studies.live_calibration.live_calibration`,
# `dpqlab.calibration.recording.bundled_recordings`, `dpqlab.viz.calibration_run.calibration_run`
# and `compare_runs`, `dpqlab.core.relative_error`. From a terminal: `dpqlab calibrate --help`.
# **Next:** [`05_error_accumulation`](05_error_accumulation.ipynb).
