"""The table of model families: the built-in ones, and those that other packages add through entry points."""

from collections.abc import Mapping
from typing import Any

from flashvid.models.family import Family
from flashvid.plugins import PluginTable

# To add a family, add a line here, or declare an entry point of this group in another package. The first family that
# recognizes a configuration takes it.
FAMILIES: PluginTable[Family] = PluginTable(
    "flashvid.families",
    {
        "qwen2_5_vl": "flashvid.models.qwen.qwen2_5_vl.facts:Qwen2_5Family",
        "qwen3_vl": "flashvid.models.qwen.qwen3_vl.facts:Qwen3Family",
        "llava_onevision": "flashvid.models.llava.facts:LlavaOnevisionFamily",
        "llava_video": "flashvid.models.llava.facts:LlavaVideoFamily",
    },
    make=lambda family: family(),
)


def find_family(config: Mapping[str, Any]) -> Family | None:
    """Return the family of a model's configuration; None if no family recognizes it."""
    return next((family for family in FAMILIES.values() if family.recognizes(config)), None)
