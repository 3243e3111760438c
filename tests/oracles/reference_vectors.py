"""Check the library against a folder of reference vectors: `python -m tests.oracles.reference_vectors DIR`.

DIR is laid out like `golden/` or like `e2e/`. It prints one line per file: its tier, whether indices agree, and the
largest difference, for a token as a share of the largest reference value, for a run of a model of a logit. A file that
cannot be read or is of an unknown kind is a miss. The exit code is 1 on any miss, or without files.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashvid import CompressionConfig, compress
from flashvid.compression.adts import event_relevance, select_tokens
from flashvid.compression.dpc_knn import Layout, dpc_knn
from flashvid.compression.dyseg import Segments, cut_segments, transition_similarities
from flashvid.compression.products import inverse_lengths
from flashvid.compression.tstm import grow_forest, sum_bags
from flashvid.engine.pruning import kept_positions
from tests.oracles.reference import Vector, load_vector, vector_paths
from tests.oracles.reference_e2e import LANGUAGE_CHECKS, LOGITS_TOLERANCE, run_paths
from tests.oracles.reference_families import FAMILIES, FamilyCheck, check_vector, load_case

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """The outcome of one file."""

    name: str
    tier: str
    problem: str | None
    error: float = 0.0
    tolerance: float = TOLERANCE
    compared: str = "indices equal"

    @property
    def passed(self) -> bool:
        """Return whether there is no problem and values are within the tolerance."""
        return self.problem is None and self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "MISS"
        finding = self.problem or self.compared
        return f"{verdict} {self.name:<48} {self.tier:<7} error {self.error:.1e}  {finding}"


def relative_error(got: Tensor, want: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute reference value; NaN counts as infinite."""
    if got.shape != want.shape:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    error = float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")  # noqa: PLR0124 - the test for NaN


def pair_repeats(indices: Tensor, got: Tensor, want: Tensor) -> Tensor:
    """Reorder rows of `got` that share an index, so that each is paired with the nearest row of `want`."""
    order = list(range(len(indices)))
    for index, count in Counter(indices.tolist()).items():
        if count == 1:
            continue
        left = (indices == index).nonzero().flatten().tolist()
        for row in list(left):
            nearest = left[int((got[left] - want[row]).abs().amax(dim=-1).argmin())]
            left.remove(nearest)
            order[row] = nearest
    return got[order]


def check_compression(vector: Vector) -> Check:
    """Check a `comp_*` file: the whole compression; tier "masked" compares only frames stable under rounding."""
    tier = vector.metadata["tier"]
    config = CompressionConfig(reference_compatible=True, **vector.params)
    features = vector.features()
    result = compress(features, vector.tensors["attention"], config)
    if list(result.segment_lengths) != vector.tensors["segment_lengths"].tolist():
        return Check(vector.name, tier, f"segments {result.segment_lengths}")
    got_indices, want_indices = result.indices, vector.tensors["kept_indices"].long()
    got, want = result.tokens, vector.tensors["kept_tokens"]
    compared = f"indices equal, {len(features)} frames"
    if tier == "masked":
        stable = vector.tensors["frame_stable"].bool()
        if not stable.any():
            return Check(vector.name, tier, "no frame is stable: there is nothing to compare")
        compared = f"indices equal, {int(stable.sum())} of {len(features)} frames"
        got_stable, want_stable = (stable[i // features.shape[1]] for i in (got_indices, want_indices))
        got_indices, got = got_indices[got_stable], got[got_stable]
        want_indices, want = want_indices[want_stable], want[want_stable]
    if not torch.equal(got_indices, want_indices):
        extra = len(set(got_indices.tolist()) ^ set(want_indices.tolist()))
        return Check(vector.name, tier, f"{len(got)} tokens for {len(want)}, {extra} indices differ")
    error = relative_error(pair_repeats(want_indices, got, want), want)
    return Check(vector.name, tier, None, error, compared=compared)


def check_segmentation(vector: Vector) -> Check:
    """Check a `segment_*` file: similarities of transitions and lengths of segments."""
    similarities = transition_similarities(vector.tensors["frame_features"], reference_compatible=True)
    lengths = cut_segments(
        similarities,
        threshold=vector.params["segment_threshold"],
        min_segment_num=vector.params["min_segment_num"],
        complementary=vector.params["complementary_segment"],
        reference_compatible=True,
    )
    same = list(lengths) == vector.tensors["segment_lengths"].tolist()
    expected = vector.tensors.get("transition_similarities", similarities)
    return Check(vector.name, "unit", None if same else f"segments {lengths}", relative_error(similarities, expected))


def check_selection(vector: Vector) -> Check:
    """Check a `select_*` file: ADTS on frames that form one segment."""
    features = vector.features()
    method = vector.metadata["kind"].removeprefix("select_")
    clip = Segments.of((len(features),), features.device)
    selected = select_tokens(
        features,
        inverse_lengths(features, reference_compatible=True),
        vector.tensors["attention"],
        event_relevance(features, features.mean(dim=1), clip) if method == "attn_div_v2" else None,
        num_selected=vector.params["num_retained_tokens"],
        method=method,
        reference_compatible=True,
    )
    same = torch.equal(selected.sort(dim=-1).values, vector.tensors["selected_indices"].long())
    return Check(vector.name, "unit", None if same else "selected indices differ")


def check_merging(vector: Vector) -> Check:
    """Check a `tstm_*` file: roots and their values, before spatial merging."""
    features, free = vector.features(), vector.tensors["token_mask"].bool()
    per_frame = vector.params["num_attn_div_tokens"] + vector.params["num_sttm_tokens"]
    forest = grow_forest(
        features,
        inverse_lengths(features, reference_compatible=True),
        free,
        Segments.of((len(features),), features.device),
        vector.params["temporal_threshold"],
        np.array([per_frame * len(features)]),
        dtype=features.dtype,
        reference_compatible=True,
    )
    values = sum_bags(
        features.flatten(0, 1), torch.arange(free.numel()), forest.root, free.numel(), 1 / forest.divisor[forest.root]
    )
    counts = forest.is_root.sum(dim=-1)
    # Positions within each frame, frame after frame.
    positions = forest.is_root.nonzero()[:, 1]
    same = torch.equal(counts, vector.tensors["retained_counts"].long())
    same = same and torch.equal(positions, vector.tensors["retained_indices"].long())
    return Check(
        vector.name,
        "unit",
        None if same else "roots differ",
        relative_error(values[forest.is_root.flatten()], vector.tensors["retained_tokens"]),
    )


def check_clustering(vector: Vector) -> Check:
    """Check a `dpcknn_*` file: the centres, and the centre of each token (ids and order of centres are free)."""
    features, num_clusters = vector.tensors["features"].float(), vector.params["num_clusters"]
    layout = Layout.of(np.array([len(features)]))
    clusters = dpc_knn(features.clone(), layout, np.array([num_clusters]), reference_compatible=True)
    centers, ids = vector.tensors["center_indices"].long(), vector.tensors["cluster_indices"].long()
    same = torch.equal(clusters.centers[clusters.ids], centers[ids])
    same = same and torch.equal(clusters.centers.sort().values, centers.sort().values)
    return Check(vector.name, "unit", None if same else "clusters differ")


def check_inner_pruning(vector: Vector) -> Check:
    """Check a `fastv_*` file: the positions kept, and every tensor along the sequence gathered at them."""
    tensors, params = vector.tensors, vector.params
    attention = tensors["attentions"][0, :, -1].mean(dim=0)
    is_prunable = tensors.get("visual_pos_masks")
    if is_prunable is None:
        first, count = params["visual_token_start_index"], params["visual_token_length"]
        positions = torch.arange(len(attention))
        is_prunable = (positions >= first) & (positions < first + count)
    kept = kept_positions(attention, is_prunable.flatten(), params["llm_retention_ratio"])
    if not torch.equal(kept, tensors["keep_indices"]):
        return Check(vector.name, "unit", "kept positions differ")
    given = {"out_hidden": "hidden_states", "out_cos": "cos", "out_sin": "sin"}
    errors = [relative_error(tensors[given[out]][..., kept, :], tensors[out]) for out in given]
    for name in ("position_ids", "cache_position"):
        # Without recorded positions, they count from 0.
        positions = tensors.get(name, torch.arange(len(attention)))[..., kept]
        if not torch.equal(positions, tensors[f"out_{name}"].view_as(positions)):
            return Check(vector.name, "unit", f"out_{name} differs")
    return Check(vector.name, "unit", None, max(errors))


CHECKS: dict[str, Callable[[Vector], Check]] = {
    "comp_": check_compression,
    "segment_": check_segmentation,
    "select_": check_selection,
    "tstm_": check_merging,
    "dpcknn_": check_clustering,
    "fastv_": check_inner_pruning,
}


def attempted(path: Path, tier: str, check: Callable[[], Check | FamilyCheck]) -> Check | FamilyCheck:
    """Run a check; an exception becomes a miss of this file, so that the other files are still checked."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - see above
        return Check(path.stem, tier, f"{type(error).__name__}: {error}".splitlines()[0])


def check_folder(folder: Path) -> Iterator[Check | FamilyCheck]:
    """Check all files of a folder; a model's weights and inputs belong to its runs."""
    left = {*vector_paths("", folder)}
    for prefix, check in CHECKS.items():
        for path in vector_paths(prefix, folder):
            left.remove(path)
            yield attempted(path, "unit", partial(lambda p, c: c(load_vector(p)), path, check))
    for family, differs in LANGUAGE_CHECKS.items():
        for path in run_paths(family, folder):
            yield attempted(path, "e2e", partial(check_run, folder, path, differs))
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as parent:
            load = cache(partial(load_case, family, folder, Path(parent) / "model"))
            for path in run_paths(family, folder):
                yield attempted(path, "e2e", partial(lambda p, case: check_vector(case(), load_vector(p)), path, load))
    for family in (*LANGUAGE_CHECKS, *FAMILIES):
        left -= {*vector_paths(f"{family}_", folder)}
    for path in sorted(left):
        yield Check(path.stem, "?", "unknown kind of file")


def check_run(folder: Path, path: Path, differs: Callable[[Path, Vector], tuple[str | None, float]]) -> Check:
    """Check the language side on one file of a family."""
    vector = load_vector(path)
    problem, error = differs(folder, vector)
    return Check(vector.name, "e2e", problem, error, LOGITS_TOLERANCE, "everything agrees")


def main(arguments: list[str]) -> int:
    """Check a folder and print the outcomes."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    checked = missed = 0
    for outcome in check_folder(folder):
        print(outcome, flush=True)
        checked, missed = checked + 1, missed + (not outcome.passed)
    print(f"{checked - missed} of {checked} files agree with {folder}")
    return 1 if missed or not checked else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
