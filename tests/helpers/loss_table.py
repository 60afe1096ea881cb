"""Every public loss and option of one, with small inputs: the rows of tests over all of them."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import jax_irkd

CLIPS, CLASSES = 8, 8
LABELS = np.array([0, 3, 1, 7, 2, 2, 5, 6], np.int32)


class Row(NamedTuple):
    """A loss of `student` and `teacher`, shapes without the batch; lists of shapes are stages."""

    student: tuple | list
    teacher: tuple | list
    fixed: Mapping = MappingProxyType({})  # options that choose what is computed
    numbers: Mapping = MappingProxyType({})  # hyper-parameters that may be traced
    labelled: bool = False
    logits: bool = False  # takes leading axes and `axis`
    relational: bool = False  # takes `axis_name`
    each: bool = True  # takes `weights` and `reduction`
    largest: float = 1e38  # of the arrays, in float32
    hottest: float = 1e30  # temperature


K = (CLASSES,)
ROWS = {
    "st_loss": Row(K, K, {}, {"temperature": 3.0}, logits=True),
    "st_loss standardised": Row(K, K, {"standardise": True}, {"temperature": 2.0}, logits=True),
    "dkd_loss": Row(
        K,
        K,
        {},
        {"temperature": 3.0, "target_weight": 0.5, "nontarget_weight": 2.0},
        labelled=True,
        logits=True,
    ),
    "selective_st_loss": Row(K, K, {}, {"decay": 0.9}, labelled=True, logits=True),
    "ccskd_channel_loss": Row((6,), (6,), logits=True, largest=1e15),
    "at_loss": Row((4, 4, 3), (2, 3, 5), {}, {"power": 2}),
    "at_loss paper": Row((2, 2, 3), (2, 2, 5), {"form": "paper"}),
    "sp_loss": Row((3, 4), (5,), relational=True),
    "cc_loss": Row((6,), (9,), {}, {"gamma": 0.3}, relational=True),
    "cc_loss bilinear": Row((6,), (9,), {"kernel": "bilinear"}, relational=True),
    "rkd_loss": Row((6,), (9,), {}, {"distance_weight": 2.0, "angle_weight": 3.0}, relational=True),
    "rkd_distance_loss": Row((6,), (9,), relational=True),
    "rkd_angle_loss": Row((6,), (9,), relational=True),
    "mgcam_loss": Row(
        [(4, 4, 3)],
        [(2, 3, 5)],
        {},
        {"sigma": 0.7, "temperature": 0.5},
        relational=True,
        largest=1e15,
    ),
    "fitnet_loss": Row((2, 2, 3), (2, 2, 3), largest=1e15),
    "ft_loss": Row((2, 2, 3), (2, 2, 3), {}, {"power": 2}),
    "pkt_loss": Row((6,), (9,), relational=True),
    "vid_loss": Row((2, 2, 3), (2, 2, 3), {"variance": 0.5}, largest=1e15),
    "nst_loss": Row((4, 4, 3), (2, 3, 5)),
    "fsp_loss": Row([(4, 4, 3), (2, 2, 2)], [(4, 4, 3), (2, 2, 2)], largest=1e7),
    "ofd_loss": Row((2, 2, 3), (2, 2, 3), {"margin": -0.3}, largest=1e15),
    "reviewkd_loss": Row((5, 6, 2), (5, 6, 2), largest=1e15),
    "crd_loss": Row((6,), (6,), {}, {"temperature": 0.5}, relational=True),
    "dist_loss": Row(
        K,
        K,
        {},
        {"temperature": 3.0, "inter_weight": 0.5, "intra_weight": 2.0},
        logits=True,
        relational=True,
        each=False,
        hottest=1e15,
    ),
    "mlkd_loss": Row(
        K,
        K,
        {"temperatures": (2.0, 4.0)},
        {"instance_weight": 0.5, "batch_weight": 2.0, "class_weight": 3.0},
        logits=True,
        relational=True,
        each=False,
    ),
    "simkd_loss": Row((2, 2, 3), (2, 2, 3), largest=1e15),
}


def draw(title, clips=CLIPS, dtype="float32", seed=0):
    """A student's and a teacher's arrays, or lists of them."""
    rng = np.random.default_rng(seed)

    def normal(shape):
        if isinstance(shape, list):
            return [normal(one) for one in shape]
        return jnp.asarray(rng.standard_normal((clips, *shape)), dtype)

    return [normal(shape) for shape in ROWS[title][:2]]


def loss_of(title, labels=LABELS, **options):
    """The loss as a function of the student's and the teacher's arrays."""
    row = ROWS[title]
    function = functools.partial(getattr(jax_irkd, title.split()[0]), **dict(row.fixed) | options)
    if row.labelled:
        return lambda student, teacher: function(student, teacher, jnp.asarray(labels))
    return function
