"""Fields every experiment has, with the paper's values where it gives them."""

from ml_collections import ConfigDict

# A method is a row: the distillers it adds to the cross-entropy, and where they differ from their
# own defaults. `teacher` trains the RGB network alone, `baseline` the infrared one (TSN).
METHODS = {
    "teacher": {},
    "baseline": {},
    "tstdd": {},
    "st": {"st": {"weight": 0.1}},
    "at": {"at": {"weight": 1000.0}},
    "sp": {"sp": {"weight": 3000.0}},
    "cc": {"cc": {"weight": 100.0}},
    "rkd": {"rkd": {"weight": 1.0}},
    "ccskd": {"ccskd": {}},
    "dkd": {"dkd": {"weight": 0.1}},
    "mgcam": {"mgcam": {"weight": 1.0}},
    "ours": {"dkd": {"weight": 0.1}, "mgcam": {"weight": 1.0}},
}

_ALL = ("train_subjects_c1", "train_subjects_c23", "test_subjects_c1", "test_subjects_c23")
NTU_PROTOCOLS = {
    "cross_subject": {"train": _ALL[:2], "test": _ALL[2:]},
    "cross_view": {"train": (_ALL[1], _ALL[3]), "test": (_ALL[0], _ALL[2])},
}


def parse(arg: str, **defaults):
    """Options given after the colon of --config=FILE:method=at,seed=1, over `defaults`.

    Raises ValueError naming the options for one that does not exist or does not parse.
    """
    options = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if name not in options:
            raise ValueError(
                f"unknown option {name!r} after the config; choose from {list(options)}"
            )
        try:
            options[name] = type(defaults[name])(value)
        except ValueError:
            kind = type(defaults[name]).__name__
            raise ValueError(f"option {name}={value!r} should be of type {kind}") from None
    return options


def distillers_of(method: str) -> dict:
    """The distillers of `method`; a name without a row is a distiller with its own defaults."""
    return METHODS.get(method, {method: {}})


def get_training() -> ConfigDict:
    """How one of the two networks is trained."""
    training = ConfigDict()
    training.batch_size = 8  # clips over all devices and processes
    training.num_epochs = 80
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
    training.eval_every = 10.0  # epochs
    return training


def get_config(method: str, protocol: str, seed: int) -> ConfigDict:
    """The paper's set-up; a dataset's config fills in `dataset`."""
    config = ConfigDict()
    config.method = method
    config.protocol = protocol
    config.seed = seed
    config.teacher = ""  # a teacher's run folder; empty: trained once into WORKDIR/teacher
    config.allow_weak_teacher = False
    config.dtype = "auto"  # bfloat16 on GPUs, float32 elsewhere
    config.distillers = distillers_of(method)

    config.dataset = ConfigDict()
    config.dataset.name = ""
    config.dataset.data_dir = "~/data/tfds"
    config.dataset.protocols = NTU_PROTOCOLS
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
    config.input.eval_scale = 0.875
    config.input.eval_batch_size = 16
    config.input.threads = 8
    config.input.max_broken = 0.01

    config.weights = ConfigDict({"teacher": "", "student": ""})  # torchvision ImageNet files
    config.teacher_model = ConfigDict({"depth": 50, "width": 64, "dropout": 0.8})
    config.student_model = ConfigDict({"depth": 18, "width": 64, "dropout": 0.8})
    for model in (config.teacher_model, config.student_model):
        model.partial_bn = False
        model.sync_bn = False
        model.head_std = 0.001

    config.teacher_training = get_training()
    config.teacher_training.batch_size = 16
    config.student_training = get_training()

    config.checkpoints = ConfigDict({"every": 500, "latest": 2, "best": 1})  # every: in steps
    config.log_every = 10
    config.num_devices = 0  # local devices to use; 0: all
    config.max_rejected = 10  # updates in a row that are not finite before the run stops
    config.eval = ConfigDict({"detection": False})
    return config
