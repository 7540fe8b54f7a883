"""Who shares which projection: sharing is object identity in one bank, not flags inside attention."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from linformers.attention.projection import (
    ConvProjection,
    LinearProjection,
    MaxPoolProjection,
    MeanPoolProjection,
    Projection,
)
from linformers.attention.slots import AttentionPoolProjection, ClusterProjection
from linformers.checks import check_choice, check_int

PROJECTION_KINDS: dict[str, type[Projection]] = {
    cls.kind: cls
    for cls in (
        LinearProjection,
        MeanPoolProjection,
        MaxPoolProjection,
        ConvProjection,
        AttentionPoolProjection,
        ClusterProjection,
    )
}

SHARING_MODES = ("none", "headwise", "key_value", "layerwise")


class ProjectionBank(nn.Module):
    """All E and F of a stack of layers, each held once (Linformer, section 4, "parameter sharing").

    ========== ============================================== =====================
    sharing    matrices                                       parameters (linear)
    ========== ============================================== =====================
    none       per layer and head an E and an F               2 heads layers n k
    headwise   per layer an E and an F for all heads          2 layers n k
    key_value  per layer one E = F for all heads              layers n k
    layerwise  one E for all layers, heads, keys and values   n k
    ========== ============================================== =====================

    Pooling has no parameters, so there is nothing to share: key and value always use one object.

    Args:
        num_layers: Layers of the stack.
        num_attention_heads: Heads of each layer.
        max_length: The longest sequence, n; None = any, for kinds without parameters.
        projected_dim: Slots k, one for all layers or one per layer; None = that layer has no projection.
        sharing: One of the modes above.
        kind: ``linear``, ``mean_pool``, ``max_pool``, ``conv``, ``attention_pool`` or ``cluster``.

    Raises:
        TypeError: A size that is not an int.
        ValueError: A size below 1, an unknown mode or kind, a list of the wrong length, or layerwise sharing of
            different k.
    """

    def __init__(
        self,
        num_layers: int,
        num_attention_heads: int,
        max_length: int | None,
        projected_dim: int | None | Sequence[int | None],
        *,
        sharing: str = "key_value",
        kind: str = "linear",
    ) -> None:
        super().__init__()
        check_int("num_layers", num_layers)
        check_int("num_attention_heads", num_attention_heads)
        check_choice("projection_sharing", sharing, SHARING_MODES)
        check_choice("projection_kind", kind, PROJECTION_KINDS)
        dims = per_layer("projected_dim", projected_dim, num_layers)
        if sharing == "layerwise" and len({k for k in dims if k is not None}) > 1:
            raise ValueError(
                f"projected_dim={list(dims)} differs between layers, but projection_sharing='layerwise' has one E for "
                "all: use one projected_dim, or share by 'key_value'."
            )
        self.sharing = sharing
        self.kind = kind
        self.projections: nn.ModuleDict = nn.ModuleDict()
        self._names: list[tuple[str, str] | None] = []
        has_parameters = PROJECTION_KINDS[kind].has_parameters
        num_heads = num_attention_heads if sharing == "none" else None
        for layer, k in enumerate(dims):
            if k is None:
                self._names.append(None)
                continue
            if sharing == "layerwise":
                names = ("shared", "shared")
            elif sharing == "key_value" or not has_parameters:
                names = (f"layer_{layer}", f"layer_{layer}")
            else:
                names = (f"layer_{layer}_key", f"layer_{layer}_value")
            for name in names:
                if name not in self.projections:
                    self.projections[name] = PROJECTION_KINDS[kind](max_length, k, num_heads)
            self._names.append(names)

    def __len__(self) -> int:
        """Layers."""
        return len(self._names)

    def __getitem__(self, layer: int) -> tuple[Projection, Projection] | None:
        """E and F of a layer: the same object where they are shared, None where the layer has none."""
        names = self._names[layer]
        if names is None:
            return None
        key, value = (self.projections[name] for name in names)
        assert isinstance(key, Projection) and isinstance(value, Projection)
        return key, value


def per_layer(field: str, value: Any, num_layers: int) -> tuple[Any, ...]:
    """Spread one setting over the layers, or check that there is one for each.

    Raises:
        ValueError: A list whose length is not ``num_layers``.
    """
    if isinstance(value, list | tuple):
        if len(value) != num_layers:
            raise ValueError(
                f"{field} has {len(value)} entries for {num_layers} layers: give one for all, or one per layer."
            )
        return tuple(value)
    return (value,) * num_layers
