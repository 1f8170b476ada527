"""A recipe: all settings of a training run as typed dataclasses, filled from YAML files and the command line.

lidar-completion-train direct --recipe small/1_direct.yaml iterations=100 optimiser.learning_rate=1e-3
"""

from dataclasses import dataclass, field

from lidar_completion.diffusion import NoiseSchedule
from lidar_completion.model.card import Pipeline
from lidar_completion.networks import Architecture
from lidar_completion.settings import at_least, check_bounds
from lidar_completion_training.errors import RecipeError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass
class AugmentationRecipe:
    """Augmentation beyond the random rotation about z and the random flip of y that every sweep gets."""

    tilt_rad: float = 0.0  # std of a random rotation about each axis, clipped at 3 std (published: 0.06)
    scale: float = 0.0  # random scale factor, uniform in 1 - scale ... 1 + scale (published: 0.05)


@dataclass
class DataRecipe:
    """Where sweeps and ground truth come from: synthetic streets made during training, or recorded drives with maps."""

    source: str = "synthetic"  # or "drives"
    sensor: str = "HDL-64E"  # synthetic only: name or TOML file of a sensor, "mix", or the TOML file of a mix
    world: str = "town"  # synthetic only; or "varied"
    sweeps_per_world: int = at_least(1, 16)
    uses_per_sweep: int = at_least(1, 1)  # synthetic only; each use has another augmentation and other noise
    workers: int = at_least(0, 1)  # processes that prepare sweeps
    first_seed: int = at_least(0, 0)  # seeds the synthetic worlds and the order of recorded sweeps
    sweeps_per_epoch: int = at_least(0, 0)  # 0: all sweeps of the drives; any other number must match the drives
    view_cell_m: float = at_least(1e-3, 10.0)  # ground truth is cut to grid cells that the sweep touches, as published
    drives: list[str] = field(default_factory=list)  # SemanticKITTI sequences, KITTI-360 drives, bags, folders
    maps: str = "maps"  # folder of the ground-truth maps, one <drive name>.npz per drive
    drop_moving: bool = True  # also remove moving and unlabelled points from the input, if a drive has labels
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    def __post_init__(self) -> None:
        check_bounds(self, "data")


@dataclass
class OptimiserRecipe:
    """Adam or SGD; linear warm-up, then cosine or step decay of the learning rate."""

    kind: str = "adam"  # or "sgd"
    learning_rate: float = at_least(0.0, 2e-3)
    group_factors: dict[str, float] = field(default_factory=dict)  # learning-rate factor per group: {auxiliary: 2.0}
    warm_up_iterations: int = at_least(0, 50)
    decay: str = "cosine"  # or "steps"
    final_fraction: float = 0.05  # learning rate at the end of the cosine, relative to learning_rate
    step_factor: float = 0.5  # for decay "steps"
    step_iterations: int = at_least(1, 1000)  # if step_epochs is 0
    step_epochs: float = at_least(0.0, 0.0)
    decay_iterations: int = at_least(0, 0)  # length of the cosine; 0: `iterations` when the run was started
    gradient_clip: float = 1.0  # maximum gradient norm, per group
    average_decay: float = 0.998  # decay of the moving average of the weights, which is exported; 0: last weights

    def __post_init__(self) -> None:
        check_choice("optimiser.kind", self.kind, ("adam", "sgd"))
        check_choice("optimiser.decay", self.decay, ("cosine", "steps"))
        check_bounds(self, "optimiser")


@dataclass
class DirectRecipe:
    """The direct objective: one or two passes from the replicated, noised scan; clamped Chamfer distance to the truth.

    Distillation uses the same settings for its Chamfer term.
    """

    second_pass: float = 0.35  # share of samples with a second pass, from the model's own first estimate
    max_steps: int = 8  # the second pass is a random later step of a schedule with 2 ... max_steps steps
    queries: int = 20_000  # random points per direction of the Chamfer distance
    clamp_m: float = 2.0
    coverage_weight: float = 1.0  # distance ground truth -> prediction
    near_weight: float = at_least(0.0, 0.0)  # adds the distances again, clamped to near_m, for the F-score
    near_m: float = 0.4
    confidence_weight: float = 0.05  # cross entropy of the confidence (architecture.point_confidence)
    free_space_weight: float = 0.0  # depth of points inside observed free space
    batch_norm: str = "sweep"  # statistics of each sweep; "frozen": running statistics of start_from, for fine-tuning

    def __post_init__(self) -> None:
        check_choice("direct.batch_norm", self.batch_norm, ("sweep", "frozen"))


@dataclass
class TeacherRecipe:
    """Noise prediction. pipeline.noised_around selects the forward process."""

    condition_dropout: float = 0.1
    moments_weight: float = 5.0  # mean^2 + (std - 1)^2 of the prediction (published: 5); 0 for noise around the scan
    weight_by_noise_scale: bool = False  # multiply errors by the point's noise scale, which converts them to metres
    uniform_in_sigma: bool = False  # draw t uniformly in noise level instead of in time
    clean_estimate: bool = False  # also weight errors by the noise level, which gives the error of the clean point x0
    couple_within_m: float = 2.0  # for noise around the scan: ignore ground truth farther than this from the scan


@dataclass
class RefinerRecipe:
    """The refiner's input is jittered ground truth, as published, or completions, as at inference."""

    inputs: str = "jitter"  # or "completion"
    denoiser: str | None = None  # model folder whose denoiser makes the completions; default: recipe.start_from
    loss: str = "squared"  # the published squared Chamfer distance, or "clamped": that of the direct objective
    jitter_m: float = 0.2
    jitter_clip_m: float = 0.3
    points: int = 180_000  # input points (published: 180,000); the output has six times as many; 0: all
    target_points: int = 0  # ground-truth points in the squared Chamfer distance (published: 360,000); 0: all
    queries: int = 0  # points per direction of the squared Chamfer distance; 0: all

    def __post_init__(self) -> None:
        check_choice("refiner.inputs", self.inputs, ("jitter", "completion"))
        check_choice("refiner.loss", self.loss, ("squared", "clamped"))


@dataclass
class DiffusionDPORecipe:
    """Eq. 10 on pairs of completions by the frozen teacher."""

    beta: float = 5000.0  # the product beta T w of Eq. 10
    pair_steps: int = 8  # denoising steps of the two completions of a pair
    draws: int = 1  # noise levels (t, noise) per pair; pairs are expensive
    metric: str = "cd"
    metric_points: int = 20_000


@dataclass
class DistillationRecipe:
    """Score distillation and Distillation-DPO; the defaults are the published settings."""

    second_start_noise: float = 1.1  # lambda (Eq. 19) of the second sample of a pair
    metric: str = "cd"  # decides the winner: cd, clamped_cd, jsd, jsd_3d, w1, f_score
    metric_points: int = 0  # random points per direction for metrics of distances; 0: all
    preference_cell_m: float = at_least(0.0, 0.0)  # decide in square cells of this size; 0: for the scene, as published
    cell_metric: str = "wrong"  # decides the winner of a cell: wrong, f_score, iou (objectives/cell_preference.py)
    auxiliary_models: int = 2  # or 1 (Table 7); score distillation always has one
    sign: str = "released"  # as in the released code; or "equation": Eq. 18 as printed, which has the opposite sign
    pair_weight: float = 1.0  # 1/omega of Eq. 18
    score_distillation_weight: float = 0.0  # plain score distillation (Eq. 6) of both samples
    same_start_noise: bool = True  # both samples of a pair start from one eps, at different lambda
    same_score_noise: bool = True  # both scores are taken at one (t, eps)
    shared_noise: bool = False  # train auxiliary models on the noised clouds of the scores: a third less work
    steps: list[int] = field(default_factory=lambda: [1])  # number of sampling steps; drawn from this list per sweep
    stop_early: bool = True  # use the clean estimate after a random step, so that every step is trained
    first_score_timestep: int = 0  # range from which the timesteps of scores and auxiliary models are drawn
    last_score_timestep: int = 999  # at most the pipeline's start timestep is used
    uniform_in_sigma: bool = False  # draw them uniformly in noise level instead of in time
    weight_by_noise_scale: bool = False  # multiply scores and errors by the point's noise scale: metres
    teacher_guidance: float = 1.0  # guidance weight of the teacher's scores; the student learns the guided result
    train_encoder: bool = False
    batch_norm: str = "frozen"  # or "sweep" or "released": see docs/distillation.md
    chamfer_weight: float = 0.0  # clamped Chamfer distance to the ground truth (recipe.direct)
    scene_weight: float = 0.0  # ScoreLiDAR's scene-wise term
    landmark_weight: float = 0.0  # ScoreLiDAR's point-wise term
    free_space_weight: float = 0.0  # points in front of measurements (recipe.free_space)

    def __post_init__(self) -> None:
        check_choice("distillation.sign", self.sign, ("released", "equation"))
        check_choice("distillation.batch_norm", self.batch_norm, ("frozen", "sweep", "released"))
        if self.batch_norm == "released" and self.shared_noise:
            raise RecipeError(
                "distillation.batch_norm is 'released', which needs separate passes for scores and auxiliary errors; "
                "set distillation.shared_noise=false"
            )
        check_choice("distillation.auxiliary_models", self.auxiliary_models, (1, 2))
        if not self.steps or min(self.steps) < 1:
            raise RecipeError(
                f"distillation.steps is {self.steps}; expected numbers of steps, such as [1] or [1,2,4,8]"
            )


@dataclass
class FreeSpaceRecipe:
    """The penalty on points between the sensor and its measurements."""

    within_deg: float = 0.2  # a point belongs to its nearest ray if the angle between them is at most this
    margin_m: float = 0.2
    clamp_m: float = 2.0
    queries: int = 20_000


@dataclass
class ExportRecipe:
    """Settings of the exported model card that differ from training."""

    replication: int = 20  # more than training can afford
    sampler: str = ""  # empty: pipeline.sampler
    steps: int = 0  # 0: pipeline.steps
    hole_levels: int = 0  # 0: pipeline.hole_levels
    description: str = ""


@dataclass
class Recipe:
    """All settings of a run.

    start_from: model folder that training starts from; its architecture, pipeline and schedule become the defaults.
    trained_before: training data of that model, which the exported card states as well; taken from its card.
    teacher: model folder of the distillation teacher; default: start_from.
    """

    name: str = "unnamed"
    objective: str = "direct"
    start_from: str | None = None
    trained_before: str = ""
    teacher: str | None = None
    iterations: int = at_least(0, 1000)  # optimiser steps, if epochs is 0
    epochs: float = at_least(0.0, 0.0)  # passes over the data
    global_batch: int = at_least(1, 1)  # sweeps per optimiser step, over all processes
    batch_scaling: str = "none"  # or "proportional": raise batch and learning rate if processes cannot split the batch
    precision: str = "32-true"  # or another of PRECISIONS
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    deterministic: bool = False  # deterministic PyTorch operators, slower on a GPU
    seed: int = at_least(0, 0)
    save_every: int = at_least(1, 50)
    picture_every: int = at_least(0, 0)  # 0: none
    architecture: Architecture = field(
        default_factory=lambda: Architecture(width=0.25, voxel_size_m=0.3, head_width=64, point_offsets=True)
    )
    pipeline: Pipeline = field(
        default_factory=lambda: Pipeline(
            downsample_voxel_m=0.25, noise_per_metre=0.02, noise_min=0.1, noise_max=1.0, noise_vertical=0.3
        )
    )
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    direct: DirectRecipe = field(default_factory=DirectRecipe)
    noise_prediction: TeacherRecipe = field(default_factory=TeacherRecipe)
    refiner: RefinerRecipe = field(default_factory=RefinerRecipe)
    diffusion_dpo: DiffusionDPORecipe = field(default_factory=DiffusionDPORecipe)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    free_space: FreeSpaceRecipe = field(default_factory=FreeSpaceRecipe)
    export: ExportRecipe = field(default_factory=ExportRecipe)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("batch_scaling", self.batch_scaling, ("none", "proportional"))
        check_bounds(self)


def check_choice(entry: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise RecipeError unless an entry has one of the allowed values."""
    if value not in allowed:
        raise RecipeError(f"{entry} is {value!r}; it can be one of {', '.join(map(str, allowed))}")
