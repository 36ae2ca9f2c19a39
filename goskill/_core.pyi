"""Type stubs of the native core."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# data

class Store:
    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_tasks: int,
        shards: list[tuple[str, int, int]],
        in_memory: bool,
        step_columns: list[tuple[str, str, list[int]]],
        episode_columns: list[tuple[str, str, list[int]]],
    ) -> None: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def num_episodes(self) -> int: ...
    def episode_task(self) -> npt.NDArray[np.int64]: ...
    def episode_length(self) -> npt.NDArray[np.int64]: ...
    def episode_start(self) -> npt.NDArray[np.int64]: ...
    def episode_return(self) -> npt.NDArray[np.float64]: ...
    def shard_rows(self, name: str, shard: int) -> npt.NDArray[Any]: ...
    def shard_entries(self, name: str, shard: int) -> npt.NDArray[Any]: ...
    def episode(
        self, index: int
    ) -> tuple[
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
        npt.NDArray[np.int8],
    ]: ...

class LabelColumn:
    def __init__(self, path: str, num_steps: int, num_classes: int, width: int) -> None: ...
    def labels(self) -> npt.NDArray[np.unsignedinteger[Any]]: ...

def class_index(
    labels: npt.NDArray[np.unsignedinteger[Any]], num_classes: int, threads: int = 1
) -> tuple[npt.NDArray[np.unsignedinteger[Any]] | npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...

class RowGather:
    def __init__(self, arrays: list[npt.NDArray[np.float32]]) -> None: ...
    def gather(self, place: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]: ...

class SegmentSampler:
    def __init__(
        self,
        store: Store,
        labels: LabelColumn | None,
        horizon: int,
        balance: str,
        episodes: list[int] | None,
        task_weights: list[float],
        episode_weights: list[float],
        samples_per_task: int,
        mean: list[float] | None,
        std: list[float] | None,
        seed: int,
        threads: int,
    ) -> None: ...
    def fill(self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]) -> None: ...
    def locate(
        self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]
    ) -> None: ...

class TransitionSampler:
    def __init__(
        self,
        store: Store,
        labels: LabelColumn | None,
        interval: int,
        gamma: float,
        discounted_rewards: bool,
        terminated: str | None,
        columns: list[str],
        before: int,
        after: int,
        balance: str,
        episodes: list[int] | None,
        task_weights: list[float],
        episode_weights: list[float],
        samples_per_task: int,
        mean: list[float] | None,
        std: list[float] | None,
        seed: int,
        threads: int,
    ) -> None: ...
    def fill(self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]) -> None: ...
    def locate(
        self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]
    ) -> None: ...

class VariableSegmentSampler:
    def __init__(
        self,
        store: Store,
        labels: LabelColumn,
        max_length: int,
        by_class: bool,
        episodes: list[int] | None,
        mean: list[float] | None,
        std: list[float] | None,
        seed: int,
        threads: int,
    ) -> None: ...
    @property
    def num_segments(self) -> int: ...
    def fill(self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]) -> None: ...
    def locate(
        self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]
    ) -> None: ...

class ContextSampler:
    def __init__(
        self,
        store: Store,
        labels: LabelColumn | None,
        horizon: int,
        context: int,
        prompt: int,
        return_scale: float,
        episodes: list[int] | None,
        prompt_episodes: list[list[int]],
        task_weights: list[float],
        mean: list[float] | None,
        std: list[float] | None,
        seed: int,
        threads: int,
    ) -> None: ...
    def fill(self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]) -> None: ...
    def locate(
        self, step: int, global_batch: int, first: int, batch: dict[str, npt.NDArray[Any]]
    ) -> None: ...

def draw_below(
    seed: int, step: int, first: int, sizes: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]: ...

# ops: tensors come as addresses

def instruction_set() -> str: ...
def nearest_code(
    *,
    x: int,
    dtype: int,
    count: int,
    dim: int,
    row_stride: int,
    column_stride: int,
    codebook: int,
    codes: int,
    cosine: bool,
    indices: int,
    distance: int | None,
    threads: int,
) -> None: ...
def vector_quantize(
    *,
    x: int,
    dtype: int,
    count: int,
    dim: int,
    row_stride: int,
    column_stride: int,
    codebook: int,
    codes: int,
    mask: int | None,
    indices: int,
    quantized_codes: int,
    quantized: int,
    counts: int,
    sums: int,
    mean_squared_error: int,
    elements: int,
    threads: int,
) -> None: ...
def straight_through(
    *,
    x: int,
    dtype: int,
    count: int,
    dim: int,
    row_stride: int,
    column_stride: int,
    gradient: int,
    gradient_row_stride: int,
    gradient_column_stride: int,
    codes: int,
    indices: int,
    scale: float,
    out: int,
    threads: int,
) -> None: ...
def move_codebook(
    *,
    cluster_size: int,
    average: int,
    codes: int,
    count: int,
    dim: int,
    counts: int,
    sums: int,
    decay: float,
    eps: float,
    threads: int,
) -> None: ...
def cached_attention(
    *,
    projected: int,
    dtype: int,
    batch: int,
    fresh: int,
    heads: int,
    head_width: int,
    keys: int,
    values: int,
    capacity: int,
    key_stride: int,
    length: int,
    visible: int | None,
    first_read: int,
    out: int,
    threads: int,
) -> None: ...
def mask_weights(
    *, weights: int, masks: int, order: int, tasks: int, size: int, dtype: int, out: int, threads: int
) -> None: ...
def sum_masked(
    *, gradients: int, masks: int, order: int, tasks: int, size: int, dtype: int, out: int, threads: int
) -> None: ...
def random_words(*, seed: int, out: int, count: int, threads: int) -> None: ...

SUM_PARTS: int

def dropped_sum(
    *,
    residual: int,
    branch: int,
    branch_bias: int,
    random: int,
    least_kept: int,
    kept_scale: float,
    weight: int,
    bias: int,
    epsilon: float,
    dtype: int,
    rows: int,
    width: int,
    total: int,
    normal: int,
    threads: int,
) -> None: ...
def dropped_sum_gradient(
    *,
    total: int,
    by_total: int,
    by_normal: int,
    random: int,
    least_kept: int,
    kept_scale: float,
    weight: int,
    bias: int,
    epsilon: float,
    dtype: int,
    rows: int,
    width: int,
    by_residual: int,
    by_branch: int,
    sums: int,
    threads: int,
) -> None: ...
def bias_relu(
    *, values: int, bias: int, dtype: int, rows: int, width: int, out: int, threads: int
) -> None: ...
def bias_relu_gradient(
    *,
    activation: int,
    gradient: int,
    dtype: int,
    rows: int,
    width: int,
    out: int,
    sums: int,
    threads: int,
) -> None: ...
def attention_room(length: int) -> int: ...
def self_attention(
    *,
    projected: int,
    dtype: int,
    batch: int,
    length: int,
    heads: int,
    head_width: int,
    scale: float,
    random: int | None,
    least_kept: int,
    kept_scale: float,
    bias: int | None,
    weights: int,
    gradient: int | None,
    sums: int | None,
    out: int,
    threads: int,
) -> None: ...
def adam(
    *,
    parameters: Sequence[tuple[int, int, int, int, int]],
    sizes: Sequence[int],
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
    clip: float | None,
    threads: int,
) -> float: ...
def add_norm(
    *,
    residual: int,
    addend: int | None,
    weight: int,
    bias: int,
    epsilon: float,
    dtype: int,
    rows: int,
    width: int,
    out: int,
    threads: int,
) -> None: ...
def focal_loss(
    *,
    logits: int,
    dtype: int,
    rows: int,
    classes: int,
    row_stride: int,
    target: int,
    weight: int | None,
    mask: int | None,
    gamma: float,
    ignore_index: int,
    label_smoothing: float,
    reduction: int,
    losses: int,
    reduced: int | None,
    gradient: int | None,
    threads: int,
) -> int: ...

# memory

def keep_freed_memory(keep: bool) -> None: ...
