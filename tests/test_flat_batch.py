"""Batches in one buffer: written and read back, sent by loader processes, and moved to a device in one copy."""

import gc
import os
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from configs.mimic_cxr_config import DataConfig
from data.batch import Batch, Ids, Targets, TokenBatch
from data.feature_store import FeatureMaps
from data.loader import Layout, make_loader, windows
from data.mimic_cxr_dataset import VQADataset
from data.tensor_group import ALIGNMENT, TensorGroup, copy_to_buffer, flat_layout, in_buffer
from tests.mini_index import WordTokenizer, write_mini_index

YES_NO = "D02_has_finding"
DTYPES = [
    torch.uint8,
    torch.bool,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def random_tensor(dtype, *shape):
    values = torch.randint(0, 2 if dtype == torch.bool else 100, shape)
    return values.to(dtype)


def random_batch(dtypes, sizes, graph=None, padding=False, states=False):
    """Tensors of any sizes, also 0; a batch does not look at them."""
    made = iter(range(10**6))

    def tensor(*more):
        n = next(made)
        return random_tensor(dtypes[n % len(dtypes)], sizes[n % len(sizes)], *more)

    tokens = TokenBatch(tensor(3), tensor(3), real=5, asked=None, states=tensor(7) if states else None)
    targets = Targets(tensor(), tensor(14).t(), tensor(26), torch.tensor(3))
    ids = Ids(tensor(), tensor())
    images = FeatureMaps(tensor(2, 2, 5))
    return Batch(images, tokens, tensor(), tensor(), tensor(), tensor(), targets, graph, tensor(14), ids, None, padding)


def assert_same(one, other):
    assert type(one) is type(other)
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, TensorGroup):
            assert_same(a, b)
        elif isinstance(a, torch.Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), f.name
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert type(a) is type(b) and a == b, f.name


def in_one_buffer(batch):
    layout, size = flat_layout(batch)
    buffer = torch.empty(size, dtype=torch.uint8)
    copy_to_buffer(batch, layout, buffer)
    return in_buffer(pickle.loads(pickle.dumps(layout)), buffer), buffer


@settings(max_examples=30, deadline=None)
@given(
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=8),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    padding=st.booleans(),
    states=st.booleans(),
)
def test_a_group_comes_back_from_a_buffer_as_it_was(dtypes, sizes, padding, states):
    batch = random_batch(dtypes, sizes, padding=padding, states=states)
    found, buffer = in_one_buffer(batch)
    assert_same(found, batch)
    for tensor in found._tensors():
        assert tensor.untyped_storage().data_ptr() == buffer.data_ptr()
        assert tensor.storage_offset() * tensor.itemsize % ALIGNMENT == 0


# Loaders


@pytest.fixture
def index(tmp_path):
    studies = []
    for i in range(40):
        questions = [(YES_NO, f"Is there thing {(i + j) % 7}?", j % 2, 4) for j in range(1 + i % 6)]
        findings = [((0, 1), "nodule", 1, True)] if i % 3 else []
        studies.append({"split": "train", "questions": questions, "images": 1 + i % 2, "findings": findings})
    return write_mini_index(tmp_path / "index", studies)


def dataset(index, features=False):
    config = DataConfig(image_size=16, questions_per_image=4, augmentation=True)
    data = VQADataset(index, "train", config, WordTokenizer(), train=True)
    if features:
        rng = np.random.default_rng(0)
        data.image_features = rng.normal(size=(len(index.images["study"]), 2, 2, 6)).astype(np.float16)
        pieces = int(data.token_table.offsets[-1])
        data.text_states = rng.normal(size=(pieces, 5)).astype(np.float16)
    return data


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_send_what_the_main_process_makes(index, features, workers):
    data = dataset(index, features)
    direct, sent = (list(make_loader(data, 3, num_workers=n)) for n in (0, workers))
    assert len(direct) == len(sent) > 10
    assert (direct[0].questions.states is not None) == isinstance(sent[0].images, FeatureMaps) == features
    for one, other in zip(direct, sent, strict=True):
        assert_same(one, other)


def test_a_batch_that_only_keeps_step_is_sent_as_such(index):
    layout = Layout(visits=3, micro_batch=1, rank=0, world_size=2)
    direct, sent = (list(windows(dataset(index), layout, num_workers=n)) for n in (0, 1))
    paddings = [batch.padding for window in sent for batch in window.batches]
    assert set(paddings) == {False, True}
    for one, other in zip(direct, sent, strict=True):
        for a, b in zip(one.batches, other.batches, strict=True):
            assert_same(a, b)


def memory(tensor):
    return tensor.untyped_storage().data_ptr()


def test_all_of_a_sent_batch_lies_in_one_buffer_and_buffers_are_used_again(index):
    seen = []
    for batch in make_loader(dataset(index), 2, num_workers=1):
        assert len({memory(tensor) for tensor in batch._tensors()}) == 1
        seen.append(memory(batch.head))
    assert len(set(seen)) < len(seen) / 2
    without = next(make_loader(dataset(index), 2))
    assert len({memory(tensor) for tensor in without._tensors()}) > 1


def test_a_buffer_is_left_alone_while_one_of_its_tensors_is_in_use(index):
    direct = list(make_loader(dataset(index), 2))
    loader = make_loader(dataset(index), 2, num_workers=1)
    kept = [next(loader).ids.question[1:], next(loader).targets.category]
    gc.collect()
    for _ in loader:
        pass
    assert torch.equal(kept[0], direct[0].ids.question[1:])
    assert torch.equal(kept[1], direct[1].targets.category)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_that_drops_a_batch_does_not_free_its_buffer(index):
    direct = list(make_loader(dataset(index), 2))
    loader = make_loader(dataset(index), 2, num_workers=1)
    kept = [next(loader)]
    child = os.fork()
    if not child:
        kept.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in loader:
        pass
    assert_same(kept[0], direct[0])


# Devices


class Copies(TorchDispatchMode):
    """Counts copies between devices."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "_to_copy" in str(function):
            self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_buffer_is_copied_to_a_device_at_once(index):
    batch = next(make_loader(dataset(index), 3, num_workers=1))
    with Copies() as copies:
        moved = batch.to("meta")
    assert copies.count == 1
    for one, other in zip(moved._tensors(), batch._tensors(), strict=True):
        assert one.is_meta and (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())


@pytest.fixture
def pinning(monkeypatch):
    """A copy in the place of pinned memory, which needs a GPU. Returns what was pinned."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    return pinned


def test_a_buffer_is_pinned_at_once(index, pinning):
    batch = next(make_loader(dataset(index), 3, num_workers=1))
    moved = batch.pin_memory()
    assert len(pinning) == 1
    assert_same(moved, batch)
    assert memory(moved.head) == memory(moved.chexpert) != memory(batch.head)


def test_what_was_put_in_after_a_batch_was_sent_is_moved_too(index, pinning):
    batch = next(make_loader(dataset(index), 3, num_workers=1))
    other = replace(batch, head=batch.head + 1, graph=None, padding=True)
    other.targets = replace(batch.targets, binary=batch.targets.binary + 1)
    other.type = other.type[1:]
    other.chexpert[:] = 7
    moved = other.pin_memory()
    assert len(pinning) == 3  # the buffer, the head and the binary targets
    assert_same(moved, other)
    assert moved.padding and moved.graph is None and (moved.chexpert == 7).all()


def test_a_small_part_of_a_buffer_does_not_move_all_of_it(pinning):
    large = torch.arange(1000)
    moved = Ids(large[:3], large[5:8]).pin_memory()
    assert_same(moved, Ids(torch.arange(3), torch.arange(5, 8)))
    assert memory(moved.question) != memory(moved.image)


def test_where_a_batch_is_already_nothing_is_copied(index):
    batch = next(make_loader(dataset(index), 3, num_workers=1))
    moved = batch.to("cpu")
    assert all(a is b for a, b in zip(moved._tensors(), batch._tensors(), strict=True))


def test_gradients_go_through_a_move():
    parts = torch.ones(8, requires_grad=True)
    moved = Ids(parts[:4], parts[4:]).to(torch.device("cpu"))
    (moved.question.sum() + 2 * moved.image.sum()).backward()
    assert parts.grad.tolist() == [1] * 4 + [2] * 4
