"""Choice of tokens: greedy, or drawn by the settings from a question's own random stream."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from flashvid.engine.sampling import TokenSampler, stream_seed
from flashvid.models import GenerationConfig

LOGITS = torch.tensor([0.2, 0.4, 0.1, 0.3]).log()


def draws(count: int = 4000, key: str = "clip/question", logits: torch.Tensor = LOGITS, **settings: object) -> Counter:
    """Return how often each token is chosen."""
    sampler = TokenSampler(GenerationConfig.model_validate({"temperature": 1.0, **settings}), key)
    return Counter(sampler.choose(logits) for _ in range(count))


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    """Without a temperature the sampler is greedy."""
    sampler = TokenSampler(GenerationConfig(), "key")
    assert sampler.choose(torch.tensor([1.0, 3.0, 3.0])) == 1


def test_draws_follow_the_probabilities() -> None:
    """Frequencies equal probabilities; four standard deviations of a share are below 0.032."""
    found = draws()
    for token, share in enumerate((0.2, 0.4, 0.1, 0.3)):
        assert abs(found[token] / 4000 - share) < 0.032


def test_a_temperature_sharpens_or_flattens() -> None:
    """A temperature raises probabilities to the power of its inverse."""
    assert draws(temperature=0.5)[1] / 4000 == pytest.approx(0.16 / 0.3, abs=0.032)
    assert draws(temperature=100.0)[2] / 4000 == pytest.approx(0.25, abs=0.032)
    assert set(draws(temperature=1e-3)) == {1}


def test_top_k_and_top_p_cut_the_tail() -> None:
    """Only the most likely tokens are drawn, in proportion to their probabilities."""
    assert draws(top_k=1).keys() == {1}
    assert draws(top_k=2).keys() == {1, 3}
    assert draws(top_p=0.39).keys() == {1}
    assert draws(top_p=0.41).keys() == {1, 3}
    assert draws(top_p=0.71).keys() == {0, 1, 3}
    # 0.4 of the 0.7 that top_k leaves is more than half.
    assert draws(top_k=2, top_p=0.5).keys() == {1}
    assert draws(top_k=2)[3] / 4000 == pytest.approx(3 / 7, abs=0.032)


def test_no_temperature_is_too_small() -> None:
    """A tiny temperature is greedy, although dividing by it overflows."""
    assert set(draws(50, temperature=1e-310)) == {int(LOGITS.argmax())}


def test_equally_likely_tokens_keep_their_order() -> None:
    """Ties at a cut go to the lower id, whatever the device's sort does."""
    assert draws(logits=torch.zeros(8), top_k=3).keys() == {0, 1, 2}


def test_a_stream_belongs_to_seed_and_key() -> None:
    """The same seed and key give the same stream, any other gives another."""
    logits = torch.zeros(1000)
    sequences = {
        (seed, key): tuple(sampler.choose(logits) for _ in range(5))
        for seed in (0, 1)
        for key in ("a/b", "a/c")
        if (sampler := TokenSampler(GenerationConfig(temperature=1.0, seed=seed), key))
    }
    assert len(set(sequences.values())) == 4
    again = TokenSampler(GenerationConfig(temperature=1.0, seed=1), "a/c")
    assert tuple(again.choose(logits) for _ in range(5)) == sequences[1, "a/c"]
    assert stream_seed(1, "1") != stream_seed(11, "")


def test_drawing_leaves_the_global_generator_alone() -> None:
    """The global random state neither changes the stream nor is changed by it."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draws(10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert draws(10) == first


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    """Impossible settings are errors with their name."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        GenerationConfig.model_validate(settings)
