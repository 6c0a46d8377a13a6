"""A card that is none: tensors on torch's device ``meta`` whose numbers are kept on the host, and a watch over them.

While the watch is on, ``meta`` is a device like any GPU. Every operation on its tensors is computed on the host, so
that whole runs take the steps that they would take on a card. What only a card would suffer from is found:

* an operation that mixes tensors of card and host is an error, as it is with CUDA;
* whatever makes the host wait for the card is counted, with the function of the package that asked for it.

Fake tensors of the device ``cuda`` would not do: their backward pass needs a driver. Neither would
``torch.FakeTensorMode``, since the numbers of its tensors are unknown, on the host too, and runs begin by looking at
poses, weights and nearest neighbours.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import l2o_splat

CARD = torch.device("meta")

aten = torch.ops.aten

READS = {
    aten._local_scalar_dense: "number",
    aten.equal: "comparison",
    aten.nonzero: "nonzero",
    aten.masked_select: "nonzero",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount",
    aten._linalg_check_errors: "linear algebra",
    aten._linalg_eigh: "linear algebra",
    aten._linalg_svd: "linear algebra",
}
"""Operations after which the host waits for the card, and what is counted for each."""

PACKAGE = Path(l2o_splat.__file__).parent


class WrongDeviceError(Exception):
    """Tensors of host and card were given to one operation."""


@dataclass(frozen=True, order=True)
class Wait:
    """A moment at which the host waits for the card."""

    where: str
    """``module.function`` of the package that asked."""
    what: str
    """``number``, ``nonzero`` and so on for what is read from the card; ``upload`` for what is put there."""


@dataclass
class Waits:
    """What a watch has counted."""

    counted: Counter[Wait] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        self.counted[Wait(_place(), what)] += 1

    def __sub__(self, allowed: Counter[Wait]) -> Counter[Wait]:
        return self.counted - allowed


def _place() -> str:
    """The innermost function of the package that is being called."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            return f"{module}.{frame.f_code.co_qualname.replace('.<locals>', '')}"
        frame = frame.f_back
    return "outside"


class Card:
    """The memory of the card."""

    def __init__(self) -> None:
        self._memory: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}
        self._swept_at = 1000

    def host(self, tensor: Tensor) -> Tensor:
        """The numbers of a tensor of the card, in the same memory; a tensor of the host as it is."""
        if tensor.device != CARD:
            return tensor
        key = tensor.untyped_storage()._cdata
        if key not in self._memory:
            raise WrongDeviceError(f"A tensor of shape {tuple(tensor.shape)} was put on the card behind our backs.")
        found = torch.empty(0, dtype=tensor.dtype)
        return found.set_(self._memory[key][1], tensor.storage_offset(), tensor.shape, tensor.stride())

    def put(self, numbers: Tensor) -> Tensor:
        """A tensor of the card with these numbers."""
        if numbers._is_zerotensor():  # Forward derivatives begin with zeros that have no memory.
            numbers = torch.zeros(numbers.shape, dtype=numbers.dtype)
        if numbers.storage_offset():
            numbers = numbers.clone()
        tensor = torch.empty_strided(numbers.shape, numbers.stride(), dtype=numbers.dtype, device=CARD)
        storage = tensor.untyped_storage()
        self._memory[storage._cdata] = StorageWeakRef(storage), numbers.untyped_storage()
        if len(self._memory) > self._swept_at:
            self._memory = {key: kept for key, kept in self._memory.items() if not kept[0].expired()}
            self._swept_at = 2 * len(self._memory) + 1000
        return tensor


class _Operations(TorchDispatchMode):
    """Computes what concerns the card, and checks it."""

    def __init__(self, card: Card, waits: Waits) -> None:
        super().__init__()
        self.card, self.waits = card, waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat, structure = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        target = kwargs.get("device")
        to_card = target is not None and torch.device(target) == CARD
        if not to_card and all(tensor.device != CARD for tensor in tensors):
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if func is aten._to_copy.default:
                return self._to_copy(args[0], kwargs)
            if func.is_view:
                return func(*args, **kwargs)
            self._check(func, args, tensors)
            if to_card:
                kwargs["device"] = torch.device("cpu")
                flat, structure = tree_flatten((args, kwargs))
            inputs = [self.card.host(value) if isinstance(value, Tensor) else value for value in flat]
            host_args, host_kwargs = tree_unflatten(inputs, structure)
            found = func(*host_args, **host_kwargs)
            if func in (aten.copy_.default,) and args[0].device != CARD:
                return args[0]
            written = _written(func, args, kwargs)
            if written is not None:
                return written
            return tree_map_only(Tensor, self.card.put, found)

    def _to_copy(self, tensor: Tensor, kwargs: dict):
        target = torch.device(kwargs.get("device") or tensor.device)
        if tensor.device != CARD and not kwargs.get("non_blocking"):
            self.waits.add("upload")
        if target != CARD:
            self.waits.add("download")
        numbers = aten._to_copy.default(self.card.host(tensor), **kwargs | {"device": torch.device("cpu")})
        return self.card.put(numbers) if target == CARD else numbers

    def _check(self, func, args, tensors: list[Tensor]) -> None:
        packet = func.overloadpacket
        if packet in READS:
            self.waits.add(READS[packet])
        elif packet is aten.repeat_interleave and len(args) == 1:
            self.waits.add("nonzero")
        elif packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            indices = [index for index in args[1] if index is not None]
            if any(index.device != CARD for index in indices):
                self.waits.add("upload")
            masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
            if masks and not (packet is not aten.index and args[2].numel() == 1):
                self.waits.add("nonzero")
            tensors = [args[0], *([] if packet is aten.index else [args[2]])]
        elif packet is aten.copy_:
            if args[0].device != args[1].device and not (len(args) > 2 and args[2]):
                self.waits.add("upload" if args[0].device == CARD else "download")
            return
        # A number that lies on the host may enter where every element is treated alike.
        alike = torch.Tag.pointwise in func.tags or packet in (aten.index_put, aten.index_put_, aten._index_put_impl_)
        strangers = [t for t in tensors if t.device != CARD and not (alike and t.ndim == 0)]
        if strangers and any(tensor.device == CARD for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in strangers)
            raise WrongDeviceError(f"{func} got tensors of the host ({shapes}) beside those of the card in {_place()}.")


def _written(func, args, kwargs):
    """What an operation that writes into its arguments returns; None if it writes into none, or returns nothing."""
    written = [
        kwargs[argument.name] if argument.name in kwargs else args[place]
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if not written or not func._schema.returns:
        return None
    return written[0] if len(written) == 1 else tuple(written)


class _Calls(TorchFunctionMode):
    """Computes what never reaches the operations."""

    def __init__(self, card: Card, waits: Waits) -> None:
        super().__init__()
        self.card, self.waits = card, waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.tolist and args[0].device == CARD:
            self.waits.add("number")
            return self.card.host(args[0]).tolist()
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = kwargs.get("device") or (args[0].device if func is Tensor.new_tensor else None)
            given = args[1] if func is Tensor.new_tensor else args[0] if args else kwargs["data"]
            if device is not None and torch.device(device) == CARD and not isinstance(given, Tensor):
                self.waits.add("upload")
                dtype = kwargs.get("dtype") or (args[0].dtype if func is Tensor.new_tensor else None)
                return self.card.put(torch.tensor(given, dtype=dtype))
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == CARD:
            args = (args[0], self._indices(args[1]), *args[2:])
        return func(*args, **kwargs)

    def _indices(self, index):
        """The same indices, with lists as torch puts them on the card."""
        if isinstance(index, tuple):
            return tuple(self._indices(part) for part in index)
        if not isinstance(index, list):
            return index
        self.waits.add("upload")
        return self.card.put(torch.tensor(index))


class CardWatch:
    """The card while it is watched; see the module."""

    def __init__(self) -> None:
        self.card = Card()
        self.waits = Waits()

    @contextmanager
    def on(self):
        """Watch what happens in the ``with`` block, and hand out what it makes the host wait for."""
        self.waits.counted = Counter()
        with _Calls(self.card, self.waits), _Operations(self.card, self.waits):
            yield self.waits
