"""State dicts as the released code saves them, beside a plain forward of the released formulation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from goskill.errors import CheckpointError
from goskill.methods.go_skill import GoSkillPolicy, load_released
from goskill.models import Decisions, Normalize

OBSERVATION, ACTION, WIDTH, HEADS, CODES, SIZE, HORIZON, LAYERS = 7, 3, 16, 2, 5, 6, 4, 2
CONTEXT, PROMPT, TIMES = 5, 3, 30

State = dict[str, Tensor]


def linear(state: State, name: str, inputs: int, outputs: int) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs) * 0.4
    state[f"{name}.bias"] = torch.randn(outputs) * 0.4


def norm(state: State, name: str) -> None:
    state[f"{name}.weight"] = 1 + torch.randn(WIDTH) * 0.3
    state[f"{name}.bias"] = torch.randn(WIDTH) * 0.3


def gpt2(state: State, name: str) -> None:
    state[f"{name}.wte.weight"] = torch.randn(1, WIDTH)
    for layer in range(LAYERS):
        block = f"{name}.h.{layer}"
        norm(state, f"{block}.ln_1")
        norm(state, f"{block}.ln_2")
        state[f"{block}.attn.bias"] = torch.ones(64, 64, dtype=torch.uint8).tril()[None, None]
        state[f"{block}.attn.masked_bias"] = torch.tensor(-1e4)
        for part, inputs, outputs in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            state[f"{block}.{part}.weight"] = torch.randn(inputs, outputs) * 0.3  # Conv1D: [in, out]
            state[f"{block}.{part}.bias"] = torch.randn(outputs) * 0.3
    norm(state, f"{name}.ln_f")


def skill_model(multi_head: bool = False, step_embedding: bool = True) -> State:
    torch.manual_seed(0)
    state: State = {}
    linear(state, "skill_encoder.0", OBSERVATION, WIDTH)
    norm(state, "skill_encoder.1")
    linear(state, "skill_encoder.2", WIDTH, WIDTH)
    linear(state, "skill_encoder.4", WIDTH, WIDTH)
    linear(state, "skill_encoder.6", WIDTH, SIZE)
    codebook = "skill_vq_layer._codebook"
    state[f"{codebook}.initted"] = torch.Tensor([True])
    state[f"{codebook}.cluster_size"] = torch.rand(1, CODES)
    state[f"{codebook}.embed_avg"] = torch.randn(1, CODES, SIZE)
    state[f"{codebook}.embed"] = torch.randn(1, CODES, SIZE) * 0.4
    linear(state, "action_embed_action", ACTION, WIDTH)
    linear(state, "action_embed_state", OBSERVATION, WIDTH)
    linear(state, "action_embed_skill_vq", SIZE, WIDTH)
    if step_embedding:
        state["action_embed_timestep.weight"] = torch.randn(HORIZON, WIDTH)
    norm(state, "action_encoder_embed_ln")
    gpt2(state, "action_encoder")
    for head in range(CODES) if multi_head else ():
        linear(state, f"predict_action.{head}.0", WIDTH, ACTION)
    if not multi_head:
        linear(state, "predict_action.0", WIDTH, ACTION)
    return state


def skill_policy(embeds_vectors: bool = True) -> State:
    torch.manual_seed(1)
    state: State = {}
    gpt2(state, "transformer")
    for prefix in ("", "prompt_"):
        state[f"{prefix}embed_timestep.weight"] = torch.randn(TIMES, WIDTH)
        linear(state, f"{prefix}embed_return", 1, WIDTH)
        linear(state, f"{prefix}embed_state", OBSERVATION, WIDTH)
        if embeds_vectors:
            linear(state, f"{prefix}embed_skill", SIZE, WIDTH)
        else:
            state[f"{prefix}embed_skill.weight"] = torch.randn(CODES, WIDTH)
    norm(state, "embed_ln")
    linear(state, "predict_skill", WIDTH, CODES)
    return state


def apply_linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def apply_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def apply_gpt2(state: State, name: str, x: Tensor, mask: Tensor) -> Tensor:
    batch, length, _ = x.shape
    causal = torch.ones(length, length).tril().bool()
    for layer in range(LAYERS):
        block = f"{name}.h.{layer}"

        def conv(part: str, y: Tensor, block: str = block) -> Tensor:
            return y @ state[f"{block}.{part}.weight"] + state[f"{block}.{part}.bias"]

        query, key, value = conv("attn.c_attn", apply_norm(state, f"{block}.ln_1", x)).split(WIDTH, -1)
        query, key, value = (y.view(batch, length, HEADS, -1).transpose(1, 2) for y in (query, key, value))
        scores = torch.where(causal, query @ key.mT / math.sqrt(WIDTH // HEADS), -1e4)
        scores = scores + (1 - mask.double())[:, None, None] * -1e4
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + conv("attn.c_proj", attended)
        x = x + conv("mlp.c_proj", conv("mlp.c_fc", apply_norm(state, f"{block}.ln_2", x)).relu())
    return apply_norm(state, f"{name}.ln_f", x)


def encode(state: State, change: Tensor) -> Tensor:
    hidden = apply_norm(state, "skill_encoder.1", apply_linear(state, "skill_encoder.0", change))
    for index in (2, 4):
        hidden = apply_linear(state, f"skill_encoder.{index}", hidden).relu()
    return apply_linear(state, "skill_encoder.6", hidden).tanh()


def released_actions(state: State, codes: Tensor, states: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """31 tokens, the action of every step at its state token; float64."""
    state = {name: value.double() for name, value in state.items()}
    step = state.get("action_embed_timestep.weight", torch.zeros(HORIZON, WIDTH))
    vectors = state["skill_vq_layer._codebook.embed"][0, codes]
    reached = apply_linear(state, "action_embed_skill_vq", encode(state, states - states[:, :1])) + step
    tokens = torch.stack(
        [
            reached,
            apply_linear(state, "action_embed_state", states) + step,
            apply_linear(state, "action_embed_action", actions) + step,
        ],
        2,
    ).flatten(1, 2)
    skill = apply_linear(state, "action_embed_skill_vq", vectors)[:, None]
    tokens = apply_norm(state, "action_encoder_embed_ln", torch.cat([skill, tokens], 1))
    token_mask = torch.cat([torch.ones(len(mask), 1), mask.repeat_interleave(3, 1)], 1)
    hidden = apply_gpt2(state, "action_encoder", tokens, token_mask)[:, 2::3]
    if "predict_action.0.weight" in state:
        return apply_linear(state, "predict_action.0", hidden).tanh()
    heads = [
        apply_linear(state, f"predict_action.{int(code)}.0", hidden[row]) for row, code in enumerate(codes)
    ]
    return torch.stack(heads).tanh()


def released_scores(state: State, codebook: Tensor, prompt: Decisions, history: Decisions) -> Tensor:
    state = {name: value.double() for name, value in state.items()}
    parts = []
    for prefix, rows in (("prompt_", prompt), ("", history)):
        if f"{prefix}embed_skill.bias" in state:
            skills = apply_linear(state, f"{prefix}embed_skill", codebook.double()[rows.choices])
        else:
            skills = state[f"{prefix}embed_skill.weight"][rows.choices]
        tokens = torch.stack(
            [
                apply_linear(state, f"{prefix}embed_return", rows.returns_to_go.double()),
                apply_linear(state, f"{prefix}embed_state", rows.observations.double()),
                skills,
            ],
            2,
        )
        tokens = (tokens + state[f"{prefix}embed_timestep.weight"][rows.timesteps][:, :, None]).flatten(1, 2)
        parts.append(tokens if prefix else apply_norm(state, "embed_ln", tokens))
    masks = [rows.mask.repeat_interleave(3, 1) for rows in (prompt, history) if rows.mask is not None]
    hidden = apply_gpt2(state, "transformer", torch.cat(parts, 1), torch.cat(masks, 1))
    return apply_linear(state, "predict_skill", hidden[:, -3 * CONTEXT :][:, 1::3])


def save(path: Path, skill: State, policy: State) -> tuple[Path, Path]:
    torch.save(skill, path / "skill_model.pt")
    torch.save(policy, path / "policy.pt")
    return path / "skill_model.pt", path / "policy.pt"


def load(path: Path, skill: State, policy: State, **arguments: Any) -> Any:
    arguments = {"heads": HEADS, "context": CONTEXT, "prompt_length": PROMPT, **arguments}
    return load_released(*save(path, skill, policy), **arguments)


def rows(length: int, padded: list[int], seed: int) -> Decisions:
    generator = torch.Generator().manual_seed(seed)
    batch = len(padded)
    mask = torch.arange(length) >= torch.tensor(padded)[:, None]
    return Decisions(
        torch.randn(batch, length, 1, generator=generator) * mask[..., None],
        torch.randn(batch, length, OBSERVATION, generator=generator) * mask[..., None],
        torch.randint(CODES, (batch, length), generator=generator) * mask,
        torch.randint(TIMES, (batch, length), generator=generator) * mask,
        mask,
    )


@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("step_embedding", [True, False])
def test_actions_equal_the_released_formulation(
    tmp_path: Path, multi_head: bool, step_embedding: bool
) -> None:
    state = skill_model(multi_head, step_embedding)
    networks = load(tmp_path, state, skill_policy(), horizon=HORIZON)
    assert not networks.training
    codes = torch.arange(6) % CODES
    states, actions = torch.randn(6, HORIZON, OBSERVATION), torch.rand(6, HORIZON, ACTION) * 2 - 1
    mask = (torch.arange(HORIZON) < torch.tensor([4, 4, 3, 2, 1, 4])[:, None]).double()
    expected = released_actions(state, codes, states.double(), actions.double(), mask)
    reached = networks.encoder(states - states[:, :1])
    index = codes if multi_head else None
    predicted = networks.decoder(networks.vectors(codes), index, reached, states, actions)
    torch.testing.assert_close(predicted[mask > 0].double(), expected[mask > 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("embeds_vectors", [True, False])
def test_skill_scores_equal_the_released_formulation(tmp_path: Path, embeds_vectors: bool) -> None:
    skill, policy = skill_model(), skill_policy(embeds_vectors)
    networks = load(tmp_path, skill, policy)
    history, prompt = rows(CONTEXT, [0, 1, 4, 2], 0), rows(PROMPT, [0, 0, 1, 2], 1)
    codebook = skill["skill_vq_layer._codebook.embed"][0]
    expected = released_scores(policy, codebook, prompt, history)

    def ours(these: Decisions) -> Decisions:
        skills = networks.policy_input(these.choices)
        return Decisions(these.returns_to_go, these.observations, skills, these.timesteps, these.mask)

    scores = networks.policy(ours(history), ours(prompt))
    assert history.mask is not None
    torch.testing.assert_close(scores[history.mask].double(), expected[history.mask], rtol=0, atol=1e-5)


def test_labels_are_the_nearest_released_codes(tmp_path: Path) -> None:
    state = skill_model()
    networks = load(tmp_path, state, skill_policy())
    change = torch.randn(50, OBSERVATION)
    expected = torch.cdist(
        encode({name: value.double() for name, value in state.items()}, change.double()),
        state["skill_vq_layer._codebook.embed"][0].double(),
    ).argmin(-1)
    assert torch.equal(networks.assign(networks.encoder(change)), expected)


def test_settings_are_read_from_the_shapes(tmp_path: Path) -> None:
    settings = load(tmp_path, skill_model(multi_head=True), skill_policy(embeds_vectors=False)).settings
    assert (settings.horizon, settings.codebook_size, settings.embedding_size) == (HORIZON, CODES, SIZE)
    assert (settings.encoder_width, settings.encoder_layers) == (WIDTH, 3)
    assert (settings.decoder_width, settings.decoder_layers) == (WIDTH, LAYERS)
    assert (settings.policy_width, settings.policy_layers, settings.max_decisions) == (WIDTH, LAYERS, TIMES)
    assert settings.multi_head_decoder
    assert settings.policy_skill_input == "index"


def test_released_networks_act(tmp_path: Path) -> None:
    from goskill.rollouts.policy import Demonstration

    normalize = Normalize(torch.ones(OBSERVATION), torch.full((OBSERVATION,), 2.0))
    networks = load(tmp_path, skill_model(), skill_policy(), normalize=normalize)
    assert torch.equal(networks.normalize.mean, torch.ones(OBSERVATION))
    random = np.random.default_rng(0)
    shown = Demonstration(
        random.normal(size=(21, OBSERVATION)).astype(np.float32),
        random.uniform(-1, 1, size=(20, ACTION)).astype(np.float32),
        np.ones(20, dtype=np.float32),
    )
    policy = GoSkillPolicy(networks)
    policy.reset(["reach"], {"reach": [shown]})
    assert policy.act(np.zeros((1, OBSERVATION), dtype=np.float32)).shape == (1, ACTION)


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("skill", "policy", "message"),
    [
        (
            without(skill_model(), "skill_encoder.4.bias"),
            skill_policy(),
            "skill_model.pt: key skill_encoder.4.bias is missing",
        ),
        (
            without(skill_model(), "action_embed_timestep.weight"),
            skill_policy(),
            "key action_embed_timestep.weight is missing",
        ),
        (
            skill_model(),
            without(skill_policy(), "predict_skill.weight"),
            "policy.pt: key predict_skill.weight is missing",
        ),
        (skill_model(), without(skill_policy(), "embed_return.weight"), "policies without return-to-go"),
        (
            {**skill_model(), "surprise": torch.ones(1)},
            skill_policy(),
            "skill_model.pt: key surprise is unknown",
        ),
        (
            skill_model(),
            {**skill_policy(), "predict_skill.weight": torch.ones(CODES + 1, WIDTH)},
            r"policy.pt does not fit: .*skill_head.weight: expected \(5, 16\), got \(6, 16\)",
        ),
        (
            {**skill_model(), "action_embed_state.weight": torch.ones(3)},
            skill_policy(),
            "expected 2 dimensions",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_key(tmp_path: Path, skill: State, policy: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, skill, policy)


def test_files_that_are_no_state_dicts_are_refused(tmp_path: Path) -> None:
    skill, policy = save(tmp_path, skill_model(), skill_policy())
    with pytest.raises(CheckpointError, match=r"absent\.pt cannot be read"):
        load_released(tmp_path / "absent.pt", policy)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt cannot be read"):
        load_released(skill, tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="expected a state dict of numbers by names, got list"):
        load_released(tmp_path / "list.pt", policy)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Payload()}, tmp_path / "payload.pt")
    _, policy = save(tmp_path, skill_model(), skill_policy())
    with pytest.raises(CheckpointError, match=r"payload\.pt cannot be read"):
        load_released(tmp_path / "payload.pt", policy)
    assert not (tmp_path / "ran").exists()
