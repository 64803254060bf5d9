# %% [markdown]
# # Ask and explain
#
# Ask a trained model about one film, see what it read the answer from, and what to make of that. The model is the quickstart's;
# without it a short training makes a poor one. Either was trained on generated data: no answer here has a clinical meaning.

# %%
from notebook_setup import model, prepare, show

place = prepare()
folder = model(place)
print("model:", folder)

# %% [markdown]
# ## A film
#
# One of the validation split, which the model has not learned from. The film is encoded once, for any number of questions.

# %%
from data.index import SPLITS, open_index
from models.asking import Asker

index = open_index(place.index)
studies = (index.studies["split"] == SPLITS.index("validate")).nonzero()[0]
study = max(studies, key=lambda n: index.studies["question_count"][n])  # one with much to ask
name = index.image_id(index.studies["image_start"][study])
path = next((place.release / "mimic-cxr-jpg" / "files").rglob(f"{name}.jpg"))

asker = Asker.from_pretrained(folder, device="cpu")
film = asker.film(path)
print(f"{film.width} x {film.height} pixels")

# %%
import base64


def picture(png: bytes, kind: str = "png", width: int = 420) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(png).decode()}" style="max-width:{width}px">'


show(picture(path.read_bytes(), "jpeg"))

# %% [markdown]
# ## Questions
#
# In your own words. The model routes each to one of its heads, or refuses: it knows nothing about a patient's age. Beside its
# answer stands what the text-only control says, which has not seen the film: where both agree, the film may have added nothing.
# Probabilities are calibrated if an evaluation has written `temperature.json` into the model's folder.

# %%
from utils.page import html_table

QUESTIONS = [
    "Is there a pleural effusion?",
    "Is there cardiomegaly?",
    "Where is the pleural effusion?",
    "How severe is the pleural effusion?",
    "What is abnormal in this film?",
    "How old is the patient?",
]
answers = asker.ask(film, QUESTIONS)
rows = [
    [
        answer.question,
        answer.head.value if answer.is_answered else "",
        answer.text,
        f"{answer.probability:.2f}" if answer.is_answered else "",
        "yes" if answer.calibrated else "no",
        ", ".join(answer.question_only.texts) if answer.question_only else "",
    ]
    for answer in answers
]
header = ["question", "head", "answer", "probability", "calibrated", "without the film"]
show(html_table(header, rows, text=set(range(len(header)))))

# %% [markdown]
# ## What the data set says
#
# Questions that the data set itself asks about this film, and their targets. Answers of several classes may be right in part.

# %%
from data.analysis.questions import target_words
from data.label_space import HEADS

first = int(index.studies["question_start"][study])
rows = []
for n in range(first, first + min(12, int(index.studies["question_count"][study]))):
    head = list(HEADS)[index.questions["head"][n]]
    text, target = index.text(index.questions["text"][n]), int(index.questions["target"][n])
    (answer,) = asker.ask(film, [text], head=head)
    truth = target_words(head, target)
    said, wanted = set(answer.texts), set(truth.split(", "))
    rows.append([text, answer.text, truth, "right" if said == wanted else "in part" if said & wanted else "wrong"])
show(html_table(["question", "answer", "target", ""], rows, text={0, 1, 2, 3}))

# %% [markdown]
# ## What it was read from
#
# Two maps for the first answer. `layercam`: what in the image speaks for this class. `regions`: which nodes of the predicted
# scene graph the question pointed at, whatever the answer. Neither proves why the model answered so: what they show, what not, and
# how they are tested stands in [EXPLANATIONS](../docs/EXPLANATIONS.md).

# %%
from models.explaining import Explainer
from utils.overlays import overlay, png, shown_size, with_legend

answered = next((answer for answer in answers if answer.is_answered), None)
if answered is None:
    print("this model refuses all of these questions: train it longer (./scripts/quickstart.sh)")
else:
    explainer = Explainer.from_pretrained(folder)
    opened = explainer.open(path)
    for one in explainer.explain(opened, answered.question, ["layercam", "regions"], head=answered.head):
        shown = overlay(opened.pixels, one.map, shown_size(opened.width, opened.height))
        lines = (f"{one.method}: {answered.question}", f"{one.head.value}: {one.target}, logit {one.logit:+.2f}")
        show(picture(png(with_legend(shown, lines, ("0", f"1 = {one.maximum:.3g}")))))

# %% [markdown]
# ## Where it looked
#
# The regions with the largest share of the question's attention, with the findings that the predicted graph has there.

# %%
if answered is not None:
    regions = {region.name: region for region in film.regions}
    rows = [
        [look.region, f"{look.weight:.2f}", ", ".join(list(regions[look.region].findings())[:3]) or "none"]
        for look in answered.looks[:5]
    ]
    show(html_table(["region", "share", "findings there (probability at least 0.5)"], rows, text={0, 2}))
