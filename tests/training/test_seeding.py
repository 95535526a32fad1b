"""Random numbers that depend only on seed, purpose and position."""

from __future__ import annotations

import torch

from reslink.training.seeding import fork_random_state, numpy_generator, seed_dropout, torch_generator


def test_random_numbers_depend_on_seed_purpose_and_position() -> None:
    draws = {
        float(numpy_generator(seed, purpose, *position).random())
        for seed in (0, 1)
        for purpose in ("order", "mixup")
        for position in ((), (0,), (1,), (0, 1), (1, 0))
    }
    assert len(draws) == 2 * 2 * 5
    assert torch_generator(0, "augment", 1).initial_seed() != torch_generator(0, "augment", 2).initial_seed()


def test_the_global_state_is_restored() -> None:
    before = torch.get_rng_state()
    with fork_random_state(torch.device("cpu")):
        seed_dropout(torch.device("cpu"), 5)
        first = torch.rand(3)
        seed_dropout(torch.device("cpu"), 5)
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)
