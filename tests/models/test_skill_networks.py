"""Shapes, causality, padding and caches of the goal encoder, the skill decoder and the skill policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from goskill.bench.traffic import Traffic
from goskill.errors import InputError
from goskill.models import Decisions, GoalEncoder, Normalize, SkillDecoder, SkillPolicyTransformer
from goskill.models.goal_encoder import fold

OBSERVATION, ACTION, EMBEDDING, HORIZON, SKILLS = 7, 3, 6, 5, 4
TRANSFORMER = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.1}


def make_decoder(reached_goal: bool = True, heads_per_skill: int = 0) -> SkillDecoder:
    torch.manual_seed(1)
    decoder = SkillDecoder(
        OBSERVATION,
        ACTION,
        EMBEDDING,
        HORIZON,
        **TRANSFORMER,
        reached_goal=reached_goal,
        heads_per_skill=heads_per_skill,
    ).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return decoder


def decoder_inputs(batch: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {
        "skill": torch.randn(batch, EMBEDDING),
        "skill_index": torch.arange(batch) % SKILLS,
        "reached": torch.randn(batch, HORIZON, EMBEDDING),
        "observations": torch.randn(batch, HORIZON, OBSERVATION),
        "actions": torch.rand(batch, HORIZON, ACTION) * 2 - 1,
    }


def test_goal_encoder_maps_any_leading_shape_into_the_open_unit_cube() -> None:
    encoder = GoalEncoder(OBSERVATION, EMBEDDING, width=16, layers=3)
    embedding = encoder(torch.randn(2, 5, OBSERVATION))
    assert embedding.shape == (2, 5, EMBEDDING)
    assert embedding.abs().max() < 1


def test_the_gradient_of_the_goal_encoder_copies_nothing() -> None:
    """As that of an activation in place would: what Linear returns is a view."""
    encoder = GoalEncoder(5, 4, 8, layers=3)
    with Traffic() as counted:
        encoder(torch.zeros(2, 3, 5)).sum().backward()
    assert not counted.by_operation.keys() & {"clone", "copy_", "new_zeros"}


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize(("inputs", "width"), [(39, 256), (1, 3), (15, 16), (16, 16), (40, 9)])
@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_folded_encoder_errs_no_more_than_float32_does(
    layers: int, inputs: int, width: int, rank: int | None
) -> None:
    """Also where the first layer's rows are alike, so that LayerNorm divides by little."""
    torch.manual_seed(0)
    encoder = GoalEncoder(inputs, EMBEDDING, width, layers)
    first, norm = encoder.stack[:2]
    torch.nn.init.normal_(norm.weight, 1, 0.3)
    torch.nn.init.normal_(norm.bias, 0, 0.3)
    if rank is not None:
        first.weight.copy_(torch.randn(width, rank) @ torch.randn(rank, inputs) + 5)
    change = torch.randn(300, inputs) * 10 ** torch.linspace(-3, 2, 300)[:, None]
    change[0] = 0
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    plain, folded = encoder(change), fold(encoder)(change)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert folded.shape == (300, EMBEDDING)
    assert folded.dtype == torch.float32
    exact = encoder.double()(change.double())
    assert (folded - exact).abs().max() <= 4 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("reached_goal", [True, False])
def test_an_action_sees_states_up_to_now_and_actions_before(reached_goal: bool) -> None:
    decoder, inputs = make_decoder(reached_goal), decoder_inputs()
    before = decoder(**inputs)
    assert before.shape == (6, HORIZON, ACTION)
    assert before.abs().max() < 1
    for name, first_changed in (("observations", 2), ("actions", 3), ("reached", 2)):
        changed = dict(inputs)
        changed[name] = inputs[name].clone()
        changed[name][:, 2:] += 1.0
        after = decoder(**changed)
        torch.testing.assert_close(after[:, :first_changed], before[:, :first_changed])
        sees = reached_goal or name != "reached"
        assert torch.equal(after[:, first_changed:], before[:, first_changed:]) != sees, name


def test_right_padding_never_changes_what_counts() -> None:
    decoder, inputs = make_decoder(), decoder_inputs()
    padded = {name: value.clone() for name, value in inputs.items()}
    for name in ("reached", "observations", "actions"):
        padded[name][:, 3:] = 1e3
    torch.testing.assert_close(decoder(**padded)[:, :3], decoder(**inputs)[:, :3])


@pytest.mark.parametrize("reached_goal", [True, False])
@pytest.mark.parametrize("heads_per_skill", [0, SKILLS])
def test_decoding_step_by_step_equals_decoding_at_once(reached_goal: bool, heads_per_skill: int) -> None:
    decoder, inputs = make_decoder(reached_goal, heads_per_skill), decoder_inputs()
    expected = decoder(**inputs)
    cache = decoder.new_cache(6)
    for _ in range(2):  # the second time the cache is used again
        index, reached, observations = inputs["skill_index"], inputs["reached"], inputs["observations"]
        steps = [decoder.begin(inputs["skill"], index, reached[:, 0], observations[:, 0], cache)]
        for step in range(1, HORIZON):
            action = inputs["actions"][:, step - 1]
            steps.append(decoder.step(index, action, reached[:, step], observations[:, step], step, cache))
        torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=0, atol=1e-5)


def test_multi_head_decoder_applies_the_head_of_each_rows_skill() -> None:
    decoder, inputs = make_decoder(heads_per_skill=SKILLS), decoder_inputs()
    actions = decoder(**inputs)
    single = make_decoder()
    for row, skill in enumerate(inputs["skill_index"].tolist()):
        state = decoder.state_dict()
        heads = slice(skill * ACTION, (skill + 1) * ACTION)
        for name in ("action_head.weight", "action_head.bias"):
            state[name] = state[name][heads]
        single.load_state_dict(state)
        torch.testing.assert_close(single(**inputs)[row], actions[row], rtol=0, atol=1e-6)


def make_policy(skill_count: int = 0) -> SkillPolicyTransformer:
    torch.manual_seed(3)
    policy = SkillPolicyTransformer(
        OBSERVATION, EMBEDDING, SKILLS, **TRANSFORMER, max_decisions=30, skill_count=skill_count
    ).eval()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return policy


def decisions(
    batch: int, length: int, seed: int, padded: Tensor | None = None, indices: bool = False
) -> Decisions:
    """Random decision points of which the first ``padded[b]`` are zero, as the sampler leaves them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) >= (torch.zeros(batch) if padded is None else padded)[:, None]
    skills = (
        torch.randint(SKILLS, (batch, length), generator=generator) * mask
        if indices
        else torch.randn(batch, length, EMBEDDING, generator=generator) * mask[:, :, None]
    )
    return Decisions(
        returns_to_go=torch.randn(batch, length, 1, generator=generator) * mask[:, :, None],
        observations=torch.randn(batch, length, OBSERVATION, generator=generator) * mask[:, :, None],
        choices=skills,
        timesteps=torch.randint(30, (batch, length), generator=generator) * mask,
        mask=None if padded is None else mask,
    )


def rows(these: Decisions, batch: slice, steps: slice) -> Decisions:
    """Some rows without a mask."""
    return Decisions(
        these.returns_to_go[batch, steps],
        these.observations[batch, steps],
        these.choices[batch, steps],
        these.timesteps[batch, steps],
    )


@pytest.mark.parametrize("indices", [False, True])
def test_policy_scores_depend_on_nothing_that_comes_later(indices: bool) -> None:
    policy = make_policy(SKILLS if indices else 0)
    history, prompt = decisions(3, 6, 0, indices=indices), decisions(3, 4, 1, indices=indices)
    scores = policy(history, prompt)
    assert scores.shape == (3, 6, SKILLS)
    shorter = policy(rows(history, slice(None), slice(0, 4)), prompt)
    torch.testing.assert_close(scores[:, :4], shorter, rtol=0, atol=1e-5)
    skills = history.choices.clone()
    skills[:, 3] = (skills[:, 3] + 1) % SKILLS
    changed = Decisions(history.returns_to_go, history.observations, skills, history.timesteps)
    torch.testing.assert_close(policy(changed, prompt)[:, :4], scores[:, :4], rtol=0, atol=1e-5)
    assert not torch.allclose(policy(changed, prompt)[:, 4:], scores[:, 4:])


def test_left_padding_of_history_and_prompt_changes_nothing() -> None:
    policy = make_policy()
    padding, prompt_padding = torch.tensor([0, 2, 5, 0, 4]), torch.tensor([0, 0, 1, 3, 4])
    history, prompt = decisions(5, 6, 0, padding), decisions(5, 4, 1, prompt_padding)
    scores = policy(history, prompt)
    assert scores.isfinite().all()
    for row, (skip, prompt_skip) in enumerate(zip(padding.tolist(), prompt_padding.tolist(), strict=True)):
        one = slice(row, row + 1)
        alone = rows(history, one, slice(skip, None))
        alone_prompt = rows(prompt, one, slice(prompt_skip, None)) if prompt_skip < 4 else None
        torch.testing.assert_close(policy(alone, alone_prompt), scores[one, skip:], rtol=0, atol=1e-5)


def test_rows_that_are_all_padding_stay_finite_forward_and_backward() -> None:
    policy = make_policy().train()
    scores = policy(decisions(2, 6, 0, torch.tensor([6, 6])), decisions(2, 4, 1, torch.tensor([4, 0])))
    scores.square().mean().backward()
    assert scores.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in policy.parameters())


@pytest.mark.parametrize("prompt_padding", [None, [0, 1, 4]])
def test_a_cached_prompt_and_history_equal_one_full_pass(prompt_padding: list[int] | None) -> None:
    policy = make_policy()
    padded = None if prompt_padding is None else torch.tensor(prompt_padding)
    history, prompt = decisions(3, 6, 0), decisions(3, 4, 1, padded)
    expected = policy(history, prompt)
    cache = policy.read_prompt(prompt, capacity=10)
    tokens = policy.embedding(history)  # [B, K, 3, width]
    before = tokens[:, 0, :0]
    for step in range(6):
        hidden = policy.extend(torch.cat([before, tokens[:, step, :2]], 1), cache)
        scores = policy.scores(hidden)[:, 0]
        torch.testing.assert_close(scores, expected[:, step], rtol=0, atol=1e-5)
        before = tokens[:, step, 2:]


def test_prompt_and_history_have_embeddings_of_their_own() -> None:
    policy = make_policy()
    history, prompt = decisions(2, 3, 0), decisions(2, 3, 1)
    policy(history, prompt).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
    before = policy(history, prompt)
    torch.nn.init.zeros_(policy.prompt_embedding.state.weight)
    assert not torch.allclose(policy(history, prompt), before)
    torch.testing.assert_close(policy(history), policy(history, None))


def test_normalize_standardises_and_carries_its_numbers() -> None:
    normalize = Normalize(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0]))
    torch.testing.assert_close(normalize(torch.tensor([[2.0, 2.0]])), torch.tensor([[2.0, 1.0]]))
    assert sorted(normalize.state_dict()) == ["mean", "std"]


@pytest.mark.parametrize("std", [[1.0, 0.0], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_normalize_refuses_numbers_that_would_spoil_observations(std: list[float]) -> None:
    with pytest.raises(InputError, match="normalization"):
        Normalize(torch.zeros(2), torch.tensor(std))
