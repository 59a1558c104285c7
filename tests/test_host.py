"""What a step asks of its device, counted on a CPU that is taken for an accelerator; copies that are not waited for."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from builders import tiny, training_batch
from running import own_set
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

from wsss import datasets, energy, host, method, model, train

ASKED = {
    *(Tensor.cpu, Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__),
    *(Tensor.__index__, Tensor.__contains__, torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor),
}
"""Answers on the host, and tensors made of its lists."""
COUNTED = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "multinomial"}
"""Operations whose result, or its size, the host has to know."""


def masks(index: object) -> bool:
    """Whether an index has a mask in it, whose number of entries the host has to know."""
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


class Waits(TorchFunctionMode):
    """Counts, by name, what makes the host wait for an accelerator. This class counts calls; `Below` counts operations
    that other calls make."""

    def __init__(self):
        super().__init__()
        self.count, self.below, self.counting = Counter(), Below(self), False

    def __enter__(self):
        self.below.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.below.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        copied = (
            func is Tensor.to
            and not kwargs.get("non_blocking")
            and any(isinstance(part, torch.device | str | Tensor) for part in (*args[1:], kwargs.get("device")))
        )
        masked = func in (Tensor.__getitem__, Tensor.__setitem__) and masks(args[1])
        if not (func in ASKED or copied or masked):
            return func(*args, **kwargs)
        self.count[func.__name__] += 1
        self.counting = True  # once a call, whatever it does
        try:
            return func(*args, **kwargs)
        finally:
            self.counting = False


class Below(TorchDispatchMode):
    """The operations."""

    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and len(args) > 1 and masks(args[1])
        counted = name in COUNTED or masked or func is torch.ops.aten.repeat_interleave.Tensor
        self.waits.count[name] += counted and not self.waits.counting
        return func(*args, **(kwargs or {}))


PLANTED = {
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "item": lambda x: x[0].item(),
    "__bool__": lambda x: bool(x[0]),
    "__getitem__": lambda x: x[x > 0],
    "__setitem__": lambda x: x.__setitem__(x > 0, 0.0),
    "tensor": lambda x: torch.tensor([1.0], device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "index": lambda x: torch.ops.aten.index(x, [x > 0]),
    "multinomial": lambda x: torch.multinomial(x, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "": lambda x: x[x.argsort()] * x.to(torch.float64) + x.to("cpu", non_blocking=True).masked_fill(x > 0.5, 1),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_question_is_counted_once(name):
    """One of each way to ask; the last one asks nothing."""
    x = torch.ones(2)
    with Waits() as waits:
        PLANTED[name](x)
    assert +waits.count == Counter([name] * bool(name))


@pytest.fixture
def accelerator(monkeypatch):
    """The CPU poses as a device that may not be asked; the filter's process is a thread."""
    monkeypatch.setattr(host, "may_ask", lambda tensor: False)
    threads = ThreadPoolExecutor(1)
    monkeypatch.setattr(energy, "_process", lambda: threads)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_waits_for_its_terms_and_for_the_filter_alone(accelerator, monkeypatch, tmp_path, accumulate):
    """Forward, losses, check, backward, optimizer, every term on."""
    config = tiny(optim__accumulate=accumulate, optim__batch=2 * accumulate, csa__direction="both")
    root = own_set(tmp_path / "own")
    splits = [datasets.Split(root, name, masks=True) for name in ("train", "val")]
    trainer = train.Trainer(config, *splits, tmp_path / "run", torch.device("cpu"))
    wrapped, batches = method.Forward(trainer.model, config), [training_batch(config, 2, seed=n) for n in range(4)]
    waited, fetch = Counter(), host.fetch

    def counted(*tensors):
        wait = fetch(*tensors)
        return lambda: (waited.update([len(tensors)]), wait())[1]

    monkeypatch.setattr(host, "fetch", counted)
    trainer._update(wrapped, iter(batches[:2]))  # constants are copied once
    waited.clear()
    batches = [batch.to(trainer.device) for batch in batches]
    with Waits() as waits:
        terms = trainer._update(wrapped, iter(batches[2:]))
    assert {"energy", "patch_subspace", "decorrelation", "structure_aux", "class_contrast"} <= terms.keys()
    assert [*terms][-1] == "energy", "the filter is waited for when all else was given to the device"
    # One copy of all terms and one of the three that the filter takes, in each part of the step.
    assert waited == {1: accumulate, 3: accumulate}
    values = waits.count.pop("tolist", 0)
    assert values == accumulate and not +waits.count, "of the copied terms, which are on the host"


def test_a_copy_waits_for_its_own_arrival_alone(monkeypatch):
    """With a stand-in for a GPU's stream; on a CPU there is nothing to wait for."""
    calls = []

    class Stream:
        def record_event(self):
            calls.append("record")
            return self

        def synchronize(self):
            calls.append("synchronize")

    x = torch.rand(2)
    assert torch.equal(host.fetch(x)()[0], x)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    wait = host.fetch(x, 2 * x)
    assert calls == ["record"]
    assert [copy.tolist() for copy in wait()] == [x.tolist(), (2 * x).tolist()] and calls == ["record", "synchronize"]


def test_a_batch_takes_along_what_a_gpu_is_not_to_be_asked(monkeypatch):
    """`DataLoader` pins it; on a device without values, "meta", the classes are known all the same."""
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    batch = training_batch(tiny(), 5)
    batch.label[1] = torch.tensor([0, 1, 0, 1, 1])
    pinned = pin_memory(batch)
    assert pinned.ids == batch.ids and pinned.mask is None
    assert torch.equal(pinned.image, batch.image) and pinned.image.data_ptr() != batch.image.data_ptr()
    moved = pinned.to(torch.device("meta"))
    assert moved.label.is_meta and moved.view.is_meta and (moved.present.shape, moved.most) == ((4,), 3)
    assert pinned.present.tolist() == [0, 1, 3, 4]


def test_a_step_on_a_gpu_without_values_mixes_no_devices(monkeypatch):
    """Forward and losses on tensors that have only a GPU's device and a shape. Any question, any size that follows from
    values and any tensor left on the host is an error."""
    config = tiny(csa__direction="both")
    net, batch = model.build(config, 4), training_batch(config)
    draw, shuffle = Tensor.exponential_, torch.randperm  # a stand-in has no generator of its own
    monkeypatch.setattr(Tensor, "exponential_", lambda tensor, generator: draw(tensor))
    monkeypatch.setattr(torch, "randperm", lambda count, generator, device: shuffle(count, device=device))
    monkeypatch.setattr(energy, "start", lambda image, probability, valid, *_: lambda: torch.zeros_like(probability))
    batch = batch.to(torch.device("cpu"))  # here its labels may be asked
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for part in net.modules():
            for name, value in {**part._parameters, **part._buffers}.items():
                part._parameters.pop(name, None)
                part._buffers[name] = None if value is None else torch.empty_like(value, device="cuda")
        batch = batch.to(torch.device("cuda"))
        output, targets = method.forward(net, batch, config, 3, torch.Generator())
        terms = method.losses(output, targets, config)
        assert len(terms) == 13 and {value.device.type for value in terms.values()} == {"cuda"}
        assert targets.anchors.shape == (2 * 16, 3), "as many as there could be"
        with pytest.raises(DataDependentOutputException):
            bool(terms["energy"])
