"""`wsss export RUN`: a run's network as an ONNX graph, from pixels to all that the explorer shows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float, Int
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18 as op
from torch import Tensor, nn

from wsss import cam, checkpoint, evaluate, method
from wsss import model as networks
from wsss.config import Config
from wsss.explore.scene import Seer
from wsss.model import SegmentationModel
from wsss.paths import UserError, atomic
from wsss.weights import header

LIMIT = 64_000_000
"""Bytes of weights that a page may be asked to hold."""
_MOST = 6
"""Number of classes of one image, at most, that get a pseudo label."""
_OPSET = 18


def write(seer: Seer, path: Path) -> Path:
    """Write the graph to `path` and the weights in half precision beside it; return the weights' path.

    If the same weights lie there already, they stay. Raises UserError for a network that is too large for a page.
    """
    half = seer.model.for_inference()
    size = 2 * sum(value.numel() for value in half.state_dict().values())
    if size > LIMIT:
        raise UserError(
            f"the network's weights take {size / 1e6:.0f} MB in half precision, but a page may hold "
            f"{LIMIT / 1e6:.0f}; `wsss explore IMAGES --run RUN` makes a page without them"
        )
    graph = _graph(seer.model, seer.config)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file() or not _same(checkpoint.read(weights), half.state_dict()):
        checkpoint.write_weights(half, weights, half.metadata())
    with atomic(path) as scratch:
        scratch.write_bytes(_refer(graph, weights).SerializeToString())
    return weights


def _same(kept: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    return kept.keys() == tensors.keys() and all(torch.equal(kept[name], tensors[name]) for name in kept)


class _Seen(nn.Module):
    """The whole computation, from pixels to what the explorer shows."""

    def __init__(self, model: SegmentationModel, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, pixels: Float[Tensor, "1 3 q q"], label: Float[Tensor, "1 k"]) -> dict[str, Tensor]:
        """Return what the explorer shows, by name. Maps are normalised and have the pixels' size; `pseudo_label` holds
        255 where it is unsure."""
        model, config = self.model, self.config
        image = model.normalise(pixels)
        output = model(image)
        probability = output.logits.sigmoid()
        label = torch.where(label.amax(1, keepdim=True) > 0, label, evaluate.probable_label(probability))
        every = torch.arange(label.shape[1])  # not the present ones: a graph's shapes cannot depend on the label
        main, aux, *_ = method.multi_scale_cams(model, image, output, config, every)
        seen = {"probability": probability, "cam": main, "aux_cam": aux}
        seen |= {"tokens": output.tokens, "aux_tokens": output.aux_tokens}
        if config.trains_subspaces:
            seen["codes"] = model.proj_head(output.tokens)
        if config.segmentation.weight:
            maps, most = cam.masked(main, label), min(_MOST, label.shape[1])
            labels = method.pseudo_label(pixels, maps, label, config, most=most)
            seen |= {"segmentation": output.segmentation, "pseudo_label": labels.to(torch.int32)}
        return seen


def _graph(model: SegmentationModel, config: Config) -> Any:
    """Trace the network; return an onnx.ModelProto with float32 weights under the names of the network's tensors."""
    size, classes = config.augment.squashed, model.classifier.weight.shape[0]
    example = torch.zeros(1, 3, size, size), torch.zeros(1, classes)
    seen = _Seen(model, config).eval()
    with torch.no_grad(), _exportable():
        names = list(seen(*example))  # fills caches, which must not keep what the tracer makes
        program = torch.onnx.export(
            seen,
            example,
            input_names=["pixels", "label"],
            output_names=names,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=_OPSET,
            custom_translation_table={torch.ops.aten.sort.stable: _sort},
        )
    graph = program.model_proto
    graph.graph.ClearField("value_info")
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for tensor in graph.graph.initializer:
        tensor.ClearField("metadata_props")
    return graph


@contextmanager
def _exportable() -> Iterator[None]:
    """Replace two functions that ONNX lacks: positions are resampled once, in advance; embedding bags gather."""
    positions: dict[tuple[int, ...], Tensor] = {}
    resample = networks.resample_abs_pos_embed

    def remembered(embedding: Tensor, new_size: list[int], **options: Any) -> Tensor:
        if tuple(new_size) not in positions:
            positions[tuple(new_size)] = resample(embedding, new_size, **options)
        return positions[tuple(new_size)]

    def gathered(
        index: Int[Tensor, "m n"], values: Float[Tensor, "p c"], mode: str, per_sample_weights: Float[Tensor, "m n"]
    ) -> Float[Tensor, "m c"]:
        return (values[index.long()] * per_sample_weights[..., None]).sum(1)

    with (
        mock.patch.object(networks, "resample_abs_pos_embed", remembered),
        mock.patch.object(torch.nn.functional, "embedding_bag", gathered),
    ):
        yield


def _sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Sort booleans stably, which the exporter cannot. TopK can: of equal values it takes the first."""
    count = op.Constant(value_ints=[self.shape[dim]])
    values, places = op.TopK(op.Cast(self, to=TensorProto.INT32), count, axis=dim, largest=int(descending), sorted=1)
    return op.Cast(values, to=TensorProto.BOOL), places


def _refer(graph: Any, weights: Path) -> Any:
    """Let the graph refer to the weights by their places in the safetensors file beside it. All other tensors of more
    than a thousand numbers become half precision. Half precision is cast to float32 where it is used."""
    kinds = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
    with open(weights, "rb") as file:
        kept, start = header(file)
    casts = []
    for tensor in graph.graph.initializer:
        entry = kept.get(tensor.name.removeprefix("model."))
        if entry and entry["shape"] == list(tensor.dims):
            first, end = entry["data_offsets"]
            tensor.ClearField("raw_data")
            tensor.data_location, tensor.data_type = TensorProto.EXTERNAL, kinds[entry["dtype"]]
            place = {"location": weights.name, "offset": start + first, "length": end - first}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        elif tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) > 4000:  # bytes
            half = numpy_helper.to_array(tensor).astype("float16")
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
        if tensor.data_type == TensorProto.FLOAT16:
            casts.append(helper.make_node("Cast", [f"half {tensor.name}"], [tensor.name], to=TensorProto.FLOAT))
            tensor.name = f"half {tensor.name}"
    nodes = [*casts, *graph.graph.node]
    graph.graph.ClearField("node")
    graph.graph.node.extend(nodes)
    return graph
