import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers
from jax_irkd.config import (
    FROZEN,
    METHODS,
    NTU_PROTOCOLS,
    PKU_PROTOCOLS,
    TEMPORAL,
    WEIGHTS,
    distillers_of,
    fields_of,
)
from jax_irkd.configs import custom, demo, ntu, pku
from jax_irkd.fields import make_shares
from jax_irkd.models import resnet, temporal
from jax_irkd.training.setup import lengths, make_model
from jax_irkd.weights.start import start_from


def test_the_papers_hyper_parameters():
    config = ntu.get_config()
    assert (config.teacher_training.batch_size, config.student_training.batch_size) == (16, 8)
    assert config.student_training.learning_rate == 1e-3
    assert config.student_training.num_epochs == config.teacher_training.num_epochs == 80
    assert config.input.num_segments == 8 and config.input.resolution == 224
    assert (config.teacher_model.depth, config.student_model.depth) == (50, 18)
    dkd = config.distillers.dkd
    assert (dkd.weight, dkd.target_weight, dkd.nontarget_weight) == (0.1, 0.7, 0.35)
    assert config.distillers.mgcam.weight == 1.0


def test_pku_differs_where_the_paper_says_so():
    config = pku.get_config("protocol=cross_view")
    assert config.student_training.num_epochs == 120
    assert config.distillers.dkd.weight == 0.01
    assert config.dataset.name == "pku_mmd_ir" and config.protocol == "cross_view"


@pytest.mark.parametrize("name", distillers.names())
def test_rows_are_the_defaults_of_the_distillers(name):
    defaults = {f.name: f.default for f in dataclasses.fields(distillers.get(name))}
    defaults["share"] = None  # of the training step, not of the module
    for own in ("axis_name", "parent", "name"):
        defaults.pop(own, None)
    assert dict(distillers_of(name)[name]) == defaults


def test_configs_share_no_field():
    first, second = ntu.get_config("method=mgcam"), ntu.get_config("method=mgcam")
    first.distillers.mgcam.update({"temperature": 0.1, "sigma": "median"})
    assert second.distillers.mgcam.temperature is None and second.distillers.mgcam.sigma == 1.0


def test_what_changes_a_weight_with_time_is_refused_beside_a_share():
    for name in distillers.names():
        kind = distillers.get(name)
        timed = {field for field in fields_of(name) if field in ("warmup_epochs", "schedule")}
        assert timed <= set(getattr(kind, "without_share", ())), name


def test_balanced_weights_are_a_share_for_every_method_also_for_new_ones():
    for name in distillers.names():
        [row] = distillers_of(name, "balanced").values()
        assert row.share == (1.0 if name in ("fitnet", "ccskd", "ofd", "reviewkd") else 0.3)
        [row] = distillers_of(name).values()
        assert row.share is None


@pytest.mark.parametrize(
    ("module", "default"),
    [(ntu, "published"), (pku, "published"), (demo, "balanced"), (custom, "balanced")],
)
def test_weights_of_every_config(module, default):
    for weights in WEIGHTS:
        config = module.get_config(f"method=ours,weights={weights}")
        shares = {name: row.share for name, row in config.distillers.items()}
        expected = 0.3 if weights == "balanced" else None
        assert shares == {"dkd": expected, "mgcam": expected}
        assert make_shares(config.distillers) == {k: v for k, v in shares.items() if v}
        usual = module.get_config("method=ours")
        assert (usual.distillers.to_dict() == config.distillers.to_dict()) == (weights == default)


@pytest.mark.parametrize("module", [ntu, pku, demo])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_distillers(module, method):
    config = module.get_config(f"method={method},seed=3")
    assert config.method == method and config.seed == 3
    assert set(config.distillers) == set(METHODS[method])


def test_joined_methods_add_up():
    assert set(pku.get_config("method=best").distillers) == {"fitnet"}
    config = pku.get_config("method=dkd+at")
    assert set(config.distillers) == {"dkd", "at"} and config.method == "dkd+at"
    assert config.distillers.dkd.weight == 0.01
    assert set(distillers_of("ours+fitnet")) == {"dkd", "mgcam", "fitnet"}
    for method, message in {
        "dkd+": "joins ''",
        "baseline+at": "joins 'baseline', which distils nothing; join some of",
        "ours+dkd": "has ['dkd'] twice; leave one out",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            ntu.get_config(f"method={method}")


@pytest.mark.parametrize("module", [ntu, pku, demo, custom])
def test_temporal_is_that_of_both_networks_and_the_papers_is_none(module):
    for arg, kind in (("", "none"), ("temporal=shift", "shift"), ("temporal=causal", "causal")):
        config = module.get_config(arg)
        for model in (config.teacher_model, config.student_model):
            assert (model.temporal, model.temporal_share) == (kind, temporal.SHARE)
    assert TEMPORAL == temporal.KINDS and FROZEN == resnet.FROZEN


@pytest.mark.parametrize("protocols", [NTU_PROTOCOLS, PKU_PROTOCOLS])
def test_protocols_share_no_split_between_training_and_test(protocols):
    for protocol in protocols.values():
        assert not set(protocol["train"]) & set(protocol["test"])
        assert len(set(protocol["train"]) | set(protocol["test"])) == 4


def test_ntu_protocols_are_the_standard_ones():
    subject, view = (NTU_PROTOCOLS[name] for name in ("cross_subject", "cross_view"))
    assert all(split.startswith("train") for split in subject["train"])
    assert all(split.endswith("c23") for split in view["train"])
    assert all(split.endswith("c1") for split in view["test"])


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("metod=at", r"unknown option 'metod'.*did you mean 'method'.*method, protocol, seed"),
        ("temporal=shfit", r"did you mean 'shift'\? Choose from none, shift, causal"),
        ("weights=best", "unknown option weights='best'; choose from published, balanced"),
        ("seed=two", r"option seed='two' should be of type int"),
    ],
)
def test_bad_options_are_named(arg, message):
    with pytest.raises(ValueError, match=message):
        ntu.get_config(arg)


def test_the_demos_data_sets_share_everything_but_the_data():
    made = {name: demo.get_config(f"data={name}") for name in demo.PROTOCOLS}
    for name, config in made.items():
        assert config.dataset.data_dir == f"runs/{name}_data/tfds"
        assert config.protocol in config.dataset.protocols
    for name in ("large", "gestures", "untrimmed"):
        for section in ("input", "weights", "teacher_model", "student_training"):
            assert made[name][section] == made["demo"][section]
    assert made["gestures"].dataset.name == "folder_ir"
    assert made["untrimmed"].eval.raw_dir == "runs/untrimmed_data/raw"
    assert demo.get_config("data=large,protocol=cross_view").protocol == "cross_view"
    with pytest.raises(ValueError, match=r"data='huge'; choose from demo, large"):
        demo.get_config("data=huge")


def test_ones_own_films_are_learnt_as_the_studies_learn():
    """By `best` unless another is named; small networks in every number as those of the tables."""
    usual, small = custom.get_config(), custom.get_config("networks=small")
    measured = demo.get_config("data=large,method=best")
    for config in (usual, small):
        assert config.distillers.to_dict() == measured.distillers.to_dict()
        assert config.method == "best" and config.dataset.rgb_size == config.dataset.infrared_size
        assert (config.input.hue_jitter, config.input.grey_share) == (0.05, 0.3)
    for section in ("student_model", "teacher_model", "weights"):
        assert small[section] == measured[section], section
    as_measured = measured.student_training.to_dict() | {"min_steps": 600}
    assert small.student_training.to_dict() == as_measured
    # 600 clips are learnt in the studies' steps, and few are seen more often.
    steps = {n: lengths(small.student_training, n)[1] for n in (24, 40, 600, 5000)}
    assert steps == {24: 612, 40: 612, 600: 666, 5000: 5616}
    assert lengths(measured.student_training, 600) == (37, 666)
    assert lengths(usual.student_training, 32) == (34, 1020)
    assert lengths(usual.student_training, 4000) == (500, 15000)
    assert small.input.to_dict() | {"max_broken": 0.01} == measured.input.to_dict()
    teacher = small.teacher_training.to_dict() | {"extra_clips": 0}
    assert teacher == small.student_training.to_dict()
    assert (usual.teacher_model.depth, usual.teacher_model.width) == (50, 64)
    with pytest.raises(ValueError, match="networks='tiny'; choose from paper, small"):
        custom.get_config("networks=tiny")


def test_the_weights_the_demo_starts_from_are_not_made_from_themselves():
    assert not demo.get_config("data=start").weights.teacher


def test_the_shipped_weights_fit_the_demos_teacher():
    config = demo.get_config()
    model = make_model(config.teacher_model, 10, "float32")
    clips = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), clips)
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    filled = start_from(config.weights.teacher, "abcdefghij")(fresh)
    kernel = filled["params"]["backbone"]["stage4_block1"]["conv2"]["kernel"]
    assert 0.001 < np.std(kernel) < 1 and not np.any(filled["params"]["head"]["kernel"])
