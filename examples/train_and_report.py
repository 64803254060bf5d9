# %% [markdown]
# # Train and report
#
# A short training, its curves, and the report with all controls. It takes minutes on two CPU cores, on the look-alike release:
# the numbers have no clinical meaning, and so short a training is far from done. The longer one is `./scripts/quickstart.sh`;
# where that has run, its result is shown at the end.

# %%
from notebook_setup import OWN_STEPS, QUICKSTART, prepare, run, show, train

place = prepare()

# %% [markdown]
# ## What would be trained
#
# `--dry_run` builds everything, prints the plan and stops.

# %%
run("train_mimic_cxr.py", *place.options, "--dry_run", "--output_dir", place.folder / "checkpoints")

# %% [markdown]
# ## Training
#
# The model first, then the text-only control. A training that was stopped goes on where it was, and one that has ended is not
# repeated: delete `quickstart/notebooks/checkpoints` to start over.

# %%
best = train(place)
print("best model:", best)

# %% [markdown]
# ## Curves
#
# `metrics.jsonl` has a line for each logged step. Losses are divided by the first one, so that all fit one figure.

# %%
import json

from utils.charts import GOOD, MODEL, Line, curves

lines = [json.loads(line) for line in (best.parent / "metrics.jsonl").read_text().splitlines()]
figure = []
for name, colour in (("train/loss", MODEL), ("train/graph_finding_loss", GOOD)):
    points = [(line["step"] / OWN_STEPS, line[name]) for line in lines if line.get(name)]
    figure.append(Line(name, [(x, y / points[0][1]) for x, y in points], colour, dots=True))
show(curves(figure, f"share of the {OWN_STEPS} steps", "loss, of the first"))

# %% [markdown]
# ## Evaluation
#
# The same questions are answered by the model and by its controls: the most frequent answer, the text-only model, a blank
# image, another patient's image, and other scene graphs.

# %%
results = place.folder / "results"
run("evaluate.py", "--model_path", best, *place.options, "--output_dir", results)

# %% [markdown]
# ## The report
#
# Read it from the last two lines: the gain over the text-only control, with an interval over patients. An interval that holds 0
# says that the film has not been shown to add anything: expected after so few steps.

# %%
from training.markdown import headline_lines
from training.report.html import render_html

report = json.loads((results / "report.json").read_text())
print("\n".join(headline_lines(report)))

# %% [markdown]
# All of it, as `report.html` has it: answers by type and class, calibration, consistency, the audit and the worst errors.

# %%
from html import escape

show(f'<iframe srcdoc="{escape(render_html(report))}" style="width:100%;height:600px;border:1px solid #ccc"></iframe>')

# %% [markdown]
# ## After a longer training

# %%
longer = QUICKSTART / "results" / "report.json"
if longer.is_file():
    print("\n".join(headline_lines(json.loads(longer.read_text()))))
else:
    print("./scripts/quickstart.sh trains longer, on a larger release: run it, then this cell again")
