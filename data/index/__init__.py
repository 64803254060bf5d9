"""The index: a release as memory-mapped columnar tables and a store of images resized once.

```
<index>/index.json            identity, vocabularies, counts of every question by its fate, problems by kind
<index>/tables/*.arrow        questions, studies, images, boxes, findings, texts, question_ids
<index>/sources.arrow         what each study was made of
<index>/images/               grey images one behind the other, shorter side `data.image_store_size`
<index>/tokens/*              word pieces of the questions, for each tokenizer that was used
```
"""

from data.index.build import build_index, ensure_index
from data.index.store import SPLITS, Index, open_index
from data.index.update import prepare_index

__all__ = ["SPLITS", "Index", "build_index", "ensure_index", "open_index", "prepare_index"]
