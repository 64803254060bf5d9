"""The questions of an evaluation and the answers to them, in one fixed order (`questions`) and as a file (`files`)."""

from models.probabilities import decide
from training.predictions.files import SCHEMA, Predictions, read_lineage, read_predictions, write_predictions
from training.predictions.questions import (
    Answers,
    AnswerTable,
    QuestionSet,
    check_key,
    expand_targets,
    question_fates,
)

__all__ = [
    "SCHEMA",
    "AnswerTable",
    "Answers",
    "Predictions",
    "QuestionSet",
    "check_key",
    "decide",
    "expand_targets",
    "question_fates",
    "read_lineage",
    "read_predictions",
    "write_predictions",
]
