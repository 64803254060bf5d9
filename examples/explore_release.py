# %% [markdown]
# # Explore a release
#
# What a release holds: studies, films, questions and scene graphs. It needs no GPU, no network and no credentials: without
# `quickstart/` it makes a small look-alike release. Those data are generated, so nothing in here has a clinical meaning.
#
# The same works with the real releases. A notebook that shows real films holds patient data then: clear its outputs before
# it leaves the machine.

# %%
from notebook_setup import prepare, run, show

place = prepare()

# %% [markdown]
# ## Sizes
#
# The index has every question that a head can answer; every other one is counted under the reason why it has no target.

# %%
from configs.mimic_cxr_config import load_config
from data.index import open_index
from data.summary import report_lines, summarise
from utils.charts import count_bars, histogram

config = load_config("configs/tiny_config.yaml").config
index = open_index(place.index)
summary = summarise(index, config.data)
print("\n".join(report_lines(summary)))

# %%
show(count_bars(list(summary["targets_by_head"].items())), "Questions with a target, by the head that answers them")

# %% [markdown]
# ## One study
#
# The film, with the regions' boxes of the scene graph (point at one for its name), and the study's questions with their
# targets. The boxes say where an anatomical region is, not where a lesion lies.

# %%
from data.analysis.samples import samples

show(samples(index, 1, seed=0))

# %% [markdown]
# ## Its scene graph
#
# A statement names a finding, where it is, and whether it is there. The graph is made from the radiologist's report, so it
# holds the answers: here it only supervises training, and the model predicts its own from the pixels.

# %%
from data.analysis.graphs import KINDS
from data.label_space import REGIONS
from data.vocabulary import RESERVED
from utils.page import html_table

row = int(index.findings["regions"].nonzero()[0][0])  # a statement with a place
image = int((index.images["finding_start"] <= row).nonzero()[0][-1])
start = int(index.images["finding_start"][image])
rows = []
for n in range(start, start + int(index.images["finding_count"][image])):
    mask, entity = int(index.findings["regions"][n]), int(index.findings["entity"][n])
    where = ", ".join(name for bit, name in enumerate(REGIONS) if mask >> bit & 1) or "anywhere"
    name = index.vocabulary.entities[entity - RESERVED] if entity >= RESERVED else "unknown"
    rows.append([name, KINDS[int(index.findings["kind"][n])], where])
show(html_table(["finding", "is", "where"], rows[:20], text={0, 1, 2}), "Statements about one film")

# %% [markdown]
# ## What findings there are
#
# The most frequent findings of all scene graphs, and how many statements a film has.

# %%
from data.analysis import graphs

found = graphs.findings(index)
frequent = [(name, values["present"]) for name, values in found["entities"].items() if values["present"]][:15]
show(count_bars(sorted(frequent, key=lambda pair: -pair[1])), "Statements that a finding is there")

# %%
import numpy as np

show(histogram(np.bincount(index.images["finding_count"]).tolist(), "statements a film"))

# %% [markdown]
# ## What a question tells without its film
#
# Some questions are mostly answered one way. The share of validation questions that the most frequent training answer to the
# same text gets right is what a model has to beat; this is why every evaluation has a text-only control.

# %%
from data.analysis.questions import blind_reach

reach = blind_reach(index)
heads = [(name.removeprefix("all "), values["of_text"]) for name, values in reach.items() if name.startswith("all ")]
show(count_bars(heads), "Right without the film, by head")

# %% [markdown]
# ## Everything else
#
# `analyze_data.py` says what is odd about a release and whether training can start, and writes a page with all of this and
# more: [DATA_ANALYSIS](../docs/DATA_ANALYSIS.md).

# %%
run("analyze_data.py", *place.options, "--output_dir", place.folder / "analysis")
