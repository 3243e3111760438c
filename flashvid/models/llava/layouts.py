"""Names of tensors in LLaVA checkpoints: the original LLaVA-NeXT layout and three layouts of transformers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flashvid.models.tensors import biased

_PATCHES = "embeddings.patch_embedding.weight"


@dataclass(frozen=True)
class Layout:
    """Prefixes of the names of each part.

    Attributes:
        tower: Prefix of the vision tower.
        projector: Prefix of the projector.
        projector_layers: Names of the projector's two linear layers.
        newline: Name of the newline's embedding.
        decoder: Prefix of the decoder.
        head: Prefix of the output head.
    """

    tower: str
    projector: str
    projector_layers: tuple[str, str]
    newline: str
    decoder: str
    head: str

    def projector_tensors(self) -> list[str]:
        """Return the names of the projector's tensors, without the prefix."""
        return biased(*self.projector_layers)


ORIGINAL = Layout(
    tower="model.vision_tower.vision_tower.vision_model.",
    projector="model.mm_projector.",
    projector_layers=("0", "2"),
    newline="model.image_newline",
    decoder="model.",
    head="lm_head.",
)
# As published on the hub, as transformers 5 saves it, and as transformers 4.5x saved it.
HUGGING_FACE = Layout(
    tower="vision_tower.vision_model.",
    projector="multi_modal_projector.",
    projector_layers=("linear_1", "linear_2"),
    newline="image_newline",
    decoder="language_model.model.",
    head="language_model.lm_head.",
)
_TRANSFORMERS_5 = replace(HUGGING_FACE, tower="vision_tower.")
_TRANSFORMERS_4 = Layout(
    tower="model.vision_tower.vision_model.",
    projector="model.multi_modal_projector.",
    projector_layers=("linear_1", "linear_2"),
    newline="model.image_newline",
    decoder="model.language_model.",
    head="lm_head.",
)
_LAYOUTS = (ORIGINAL, HUGGING_FACE, _TRANSFORMERS_5, _TRANSFORMERS_4)


def find_layout(stored: Iterable[str], default: Layout) -> Layout:
    """Return the layout of a checkpoint, by the name of the tower's first tensor; `default` if that is missing."""
    names = frozenset(stored)
    return next((layout for layout in _LAYOUTS if layout.tower + _PATCHES in names), default)


def tower_tensors(num_layers: int) -> list[str]:
    """Return the names of the tower's tensors up to its last used layer, without the prefix."""
    attention = (f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
    layer = biased("layer_norm1", "layer_norm2", *attention, "mlp.fc1", "mlp.fc2")
    return [
        _PATCHES,
        "embeddings.patch_embedding.bias",
        "embeddings.position_embedding.weight",
        *(f"encoder.layers.{index}.{name}" for index in range(num_layers) for name in layer),
    ]
