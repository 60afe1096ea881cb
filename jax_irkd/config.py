"""Fields every experiment has, with the paper's values where it gives them."""

import dataclasses
import typing
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from jax_irkd import distillers
from jax_irkd.errors import nearest

# With `weights=balanced` every distiller has a `share`: the length of its gradient to the student
# over the cross-entropy's, held about there (see training/balance.py). It is this one where the
# method's `Distiller` has no `balanced_share`.
SHARE = 0.3
WEIGHTS = ("published", "balanced")
# A method is the distillers it adds to the cross-entropy; dkd+at adds those of both. `teacher`
# trains the RGB network alone, `baseline` the infrared one (TSN).
METHODS = {
    "teacher": (),
    "baseline": (),
    "tstdd": (),
    **{name: (name,) for name in distillers.names()},
    "ours": ("dkd", "mgcam"),
    "best": ("fitnet",),  # what our studies recommend, not the paper: docs/study.md says why
}
TEMPORAL = ("none", "shift", "causal")  # those of jax_irkd.models.temporal
FROZEN = ("none", "stem", "stage1", "stage2", "stage3", "stage4")  # those of models.resnet


def _protocols(seen: str, unseen: str) -> dict:
    """Both protocols over four splits: subjects times camera views, `seen` and `unseen`."""
    train_seen, train_unseen = f"train_subjects_{seen}", f"train_subjects_{unseen}"
    test_seen, test_unseen = f"test_subjects_{seen}", f"test_subjects_{unseen}"
    return {
        "cross_subject": {
            "train": (train_unseen, train_seen),
            "test": (test_unseen, test_seen),
        },
        "cross_view": {
            "train": (train_seen, test_seen),
            "test": (train_unseen, test_unseen),
        },
    }


NTU_PROTOCOLS = _protocols("c23", "c1")
PKU_PROTOCOLS = _protocols("train_views", "test_views")


# What every config takes after its colon, with what it is otherwise; `parse` says the same of a
# config's own options.
OPTIONS = {
    "method": "ours",
    "protocol": "cross_subject",
    "seed": 0,
    "temporal": "none",
    "weights": "published",
}


def parse(arg: str, **own):
    """Options given after the colon of --config=FILE:method=at,seed=1, over `OPTIONS` and `own`.

    Raises ValueError naming the options for one that does not exist or does not parse.
    """
    defaults = OPTIONS | own
    options = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if name not in options:
            raise ValueError(f"unknown option {name!r} after the config{nearest(name, options)}")
        try:
            options[name] = type(defaults[name])(value)
        except ValueError:
            kind = type(defaults[name]).__name__
            raise ValueError(f"option {name}={value!r} should be of type {kind}") from None
    return options


def check_method(method: str) -> None:
    """Raises ValueError, with the nearest names and all of them, for a method there is not.

    A method is a row of `METHODS`, a file in distillers/, or the dotted path of a module, or
    several of these joined by +.
    """
    names_of(method)
    for part in method.split("+"):
        if part in METHODS or part in distillers.names():
            continue
        if "." not in part:
            known = sorted({*METHODS, *distillers.names()})
            raise ValueError(
                f"unknown method {part!r}{nearest(part, known)}, or the dotted path of a module "
                "with a class Distiller"
            )
        distillers.get(part)


def names_of(method: str) -> tuple[str, ...]:
    """The distillers of a method, or of several joined by +; a name without a row is its own.

    Raises ValueError where a joined method has no distillers, or one that another has too.
    """
    parts = method.split("+")
    names = [METHODS.get(part, (part,)) for part in parts]
    for part, found in zip(parts, names):
        if len(parts) > 1 and not (part and found):
            raise ValueError(
                f"method {method!r} joins {part!r}, which distils nothing; "
                f"join some of {sorted(name for name in METHODS if METHODS[name])}"
            )
    joined = [name for found in names for name in found]
    twice = {name for name in joined if joined.count(name) > 1}
    if twice:
        raise ValueError(f"method {method!r} has {sorted(twice)} twice; leave one out")
    return tuple(joined)


def fields_of(name: str) -> dict[str, Any]:
    """The hyper-parameters of a distiller with their defaults, each of which can be a flag.

    They are the fields of its module: a number that may be None is a placeholder, one that may be
    a word too takes any type. Raises ValueError for a distiller there is not.
    """
    row = {}
    for field in dataclasses.fields(distillers.get(name)):  # imports it, and with it JAX
        if field.name in ("parent", "name", "axis_name"):
            continue
        kinds = typing.get_args(field.type)
        row[field.name] = field.default
        if field.default is None:
            row[field.name] = placeholder(str if str in kinds else float)
        elif str in kinds and not isinstance(field.default, str):
            row[field.name] = FieldReference(field.default, field_type=object)
    return row


def distillers_of(method: str, weights: str = "published") -> ConfigDict:
    """The rows of the distillers of `method`, see `names_of`.

    `weights` is published (the weights of the paper and of the methods' authors, no share) or
    balanced (a share for each). Raises ValueError for another.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"unknown option {weights=}{nearest(weights, WEIGHTS)}")
    rows = {name: fields_of(name) for name in names_of(method)}
    for name, row in rows.items():
        row["share"] = placeholder(float)
        if weights == "balanced":
            row["share"].set(getattr(distillers.get(name), "balanced_share", SHARE))
    return ConfigDict(rows, allow_dotted_keys=True)


def trains_teacher(config: ConfigDict) -> bool:
    """Whether a student's run trains its teacher first: it learns from one, and none is named."""
    return bool(config.distillers) and not config.teacher


def get_training() -> ConfigDict:
    """How one of the two networks is trained."""
    training = ConfigDict()
    training.batch_size = 8  # clips over all devices and processes
    training.num_epochs = 80.0
    training.min_steps = 0  # of few clips an epoch is so many passes that there are as many
    training.optimizer = "sgd"  # or adamw
    training.learning_rate = 1e-3
    training.momentum = 0.9
    training.weight_decay = 5e-4
    training.schedule = "step"  # x 0.1 at half (SAKDN's); or cosine, constant
    training.warmup_epochs = 0.0
    training.clip_norm = 0.0  # 0: no clipping
    training.accumulation = 1  # parts a batch is cut into
    training.ema_decay = 0.0  # 0: no running mean of the parameters
    training.label_smoothing = 0.0
    training.class_weights = "none"  # or balanced: a rare class counts more in the cross-entropy
    training.sampling = "uniform"  # or balanced: clips of every class come equally often
    training.eval_every = 10.0  # epochs
    training.patience = 0  # evaluations without a better one before training ends; 0: to its end
    return training


def get_evaluation() -> ConfigDict:
    """How clips are tested, and detection in the untrimmed test videos of PKU-MMD."""
    evaluation = ConfigDict()
    evaluation.clips = 1  # views in time: so many frames of every segment, evenly spaced
    evaluation.crops = 1  # views in space: the centre, 3 along the longer side, 5 or 10 as in TSN
    evaluation.detection = False
    evaluation.raw_dir = ""  # the raw files that the data set was built from
    evaluation.window = 64  # frames
    evaluation.stride = 16
    evaluation.smoothing = 3  # windows averaged, odd
    evaluation.thresholds = (0.5,)  # a class is proposed where its probability reaches one
    evaluation.max_gap = 0  # frames; stretches so near are joined
    evaluation.min_frames = 8
    evaluation.nms_overlap = 0.5  # of two proposals that overlap more, the surer stays
    evaluation.overlap = 0.5  # with an annotation, for a proposal to be a hit
    evaluation.missing = "error"  # annotated videos not on disk; or official, empty
    return evaluation


def get_tstdd() -> ConfigDict:
    """TSTDDs, infrared only: optical flow, three networks, a linear SVM (jax_irkd.tstdd)."""
    tstdd = ConfigDict()
    tstdd.flow = "dis"  # or tvl1, with opencv-contrib
    tstdd.cache_dir = ""  # where flow is kept; empty: DATA_DIR/flow
    tstdd.size = (128, 154)  # (height, width) that frames are fitted to before their flow
    tstdd.bound = 10.0  # pixels a frame; flow is cut off there
    tstdd.resolution = 112  # of the networks
    tstdd.stack = 10  # flow fields of the local stream
    tstdd.stride = 5  # frames between two pictures of a clip
    tstdd.decay = 0.9  # of the motion history, a frame
    tstdd.width = 96
    tstdd.dropout = 0.5
    tstdd.layers = ("conv4", "conv5")
    tstdd.tube = 15  # frames
    tstdd.components = 64  # after whitening
    tstdd.words = 1024
    tstdd.neighbours = 5
    tstdd.samples = 100_000  # descriptors a codebook is made from
    tstdd.cost = 1.0  # C of the SVMs
    tstdd.training = ConfigDict()
    tstdd.training.batch_size = 32
    tstdd.training.num_epochs = 40.0
    tstdd.training.optimizer = "adamw"
    tstdd.training.learning_rate = 1e-3
    tstdd.training.momentum = 0.9
    tstdd.training.weight_decay = 1e-2
    tstdd.training.schedule = "cosine"
    tstdd.training.warmup_epochs = 1.0
    tstdd.training.clip_norm = 0.0
    return tstdd


def paper_setup(
    method: str, protocol: str, seed: int, temporal: str = "none", weights: str = "published"
) -> ConfigDict:
    """The paper's set-up; a dataset's config fills in `dataset`.

    `temporal` is that of both networks, `weights` as `distillers_of` takes them. Raises ValueError
    for one that is not among `TEMPORAL` or `WEIGHTS`.
    """
    if temporal not in TEMPORAL:
        raise ValueError(f"unknown option {temporal=}{nearest(temporal, TEMPORAL)}")
    check_method(method)
    config = ConfigDict()
    config.method = method
    config.protocol = protocol
    config.seed = seed
    config.teacher = ""  # a teacher's run folder; empty: trained once into WORKDIR/teacher
    config.allow_weak_teacher = False
    config.dtype = "auto"  # bfloat16 on GPUs, float32 elsewhere
    config.distillers = distillers_of(method, weights)

    config.dataset = ConfigDict()
    config.dataset.name = ""
    config.dataset.data_dir = "~/data/tfds"
    config.dataset.protocols = NTU_PROTOCOLS
    config.dataset.leave_out = ()  # classes that nobody learns, to see whether they are told apart
    # Frames are scaled to cover these (height, width) and centre-cropped. The RGB camera sees more
    # to the sides than the infrared one: 4:3 of its 16:9 is what both see.
    config.dataset.rgb_size = (256, 340)
    config.dataset.infrared_size = (256, 308)

    config.input = ConfigDict()
    config.input.num_segments = 8
    config.input.resolution = 224
    config.input.scales = (1.0, 0.875, 0.75, 0.66)
    config.input.flip = True
    config.input.colour_jitter = 0.2
    config.input.hue_jitter = 0.0  # share of the colour circle, up to 0.5: any hue
    config.input.grey_share = 0.0  # of the RGB clips, shown without colour
    config.input.erasing = 0.0  # of the clips, with a rectangle erased
    config.input.mixup = 0.0  # alpha of its beta distribution, 0.2 say; 0: none
    config.input.cutmix = 0.0  # the same, 1.0 say
    config.input.eval_scale = 0.875
    config.input.eval_batch_size = 16
    config.input.threads = 0  # that read clips; 0: one for each core, at most 16
    config.input.readers = "auto"  # threads, or as many processes: auto for training on GPUs, TPUs
    config.input.max_broken = 0.01
    config.input.unpaired = True  # a network that reads one modality takes clips of it alone, too
    # The share of the training subjects that is kept aside: for the best checkpoint, patience and
    # calibration. 0: the paper's protocols train on all of them.
    config.input.validation = 0.0

    config.weights = ConfigDict({"teacher": "", "student": ""})  # torchvision ImageNet files
    config.teacher_model = ConfigDict({"depth": 50, "width": 64, "dropout": 0.8})
    config.student_model = ConfigDict({"depth": 18, "width": 64, "dropout": 0.8})
    for model in (config.teacher_model, config.student_model):
        model.partial_bn = False
        model.frozen = "none"  # up to and including stem, stage1, … stage4: learns nothing
        model.sync_bn = False
        model.zero_init_residual = False  # True: quicker from scratch
        model.head_std = 0.001
        model.remat = False  # True: less memory, a third more computation
        model.temporal = temporal
        model.temporal_share = 0.125  # of the channels, from each neighbouring segment

    config.teacher_training = get_training()
    config.teacher_training.batch_size = 16
    config.student_training = get_training()
    config.student_training.extra_clips = (
        0  # infrared clips without partners, beside a batch's pairs
    )

    config.checkpoints = ConfigDict({"every": 500, "latest": 2, "best": 1})  # every: in steps
    config.log_every = 10  # steps: their mean is a line of the log
    # Beside metrics.jsonl: tensorboard, wandb, mlflow, or the dotted path of a class of yours.
    config.loggers = ("tensorboard",)
    config.num_devices = 0  # local devices to use; 0: all
    config.max_rejected = 10  # updates in a row that are not finite before the run stops
    config.eval = get_evaluation()
    config.tstdd = get_tstdd()
    return config
