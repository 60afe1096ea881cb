"""From the descriptors of a clip to one vector: whitening, a codebook, linear codes, max pooling.

Locality-constrained linear coding (Wang et al., CVPR 2010).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Codebook(NamedTuple):
    """PCA whitening (mean, projection) and the words of k-means in the whitened space."""

    mean: Float[np.ndarray, " f"]
    projection: Float[np.ndarray, "f d"]
    words: Float[np.ndarray, "k d"]

    def whiten(self, descriptors: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n d"]:
        return (descriptors - self.mean) @ self.projection


def fit_codebook(
    descriptors: Float[np.ndarray, "n f"], *, components: int, words: int, seed: int
) -> Codebook:
    """Whiten to `components` dimensions and cluster into `words`, fewer where there is less data.

    Directions without variance are left out.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    count = min(components, *descriptors.shape)
    with np.errstate(invalid="ignore"):  # descriptors that are all the same
        pca = PCA(count, svd_solver="covariance_eigh").fit(descriptors)
    deviation = np.maximum(np.sqrt(np.maximum(pca.explained_variance_, 0)), 1e-12)
    kept = deviation >= 1e-6 * deviation[0]
    projection = (pca.components_[kept] / deviation[kept, None]).T
    whitened = (descriptors - pca.mean_) @ projection
    clusters = min(words, len(np.unique(whitened, axis=0)))
    means = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=seed).fit(whitened)
    return Codebook(pca.mean_, projection, means.cluster_centers_)


def linear_codes(
    descriptors: Float[np.ndarray, "n d"],
    words: Float[np.ndarray, "k d"],
    neighbours: int = 5,
    ridge: float = 1e-4,
) -> Float[np.ndarray, "n k"]:
    """LLC: every descriptor as an affine mix of its nearest words.

    min over c of |x - B^T c|^2 + ridge tr(C) |c|^2 with sum(c) = 1, where B holds the `neighbours`
    nearest words and C = (B - 1 x^T)(B - 1 x^T)^T; so c is C^{-1} 1, scaled to sum 1. Other words
    have the weight 0.
    """
    neighbours = min(neighbours, len(words))
    squared = (words**2).sum(1) - 2 * descriptors @ words.T
    nearest = np.argpartition(squared, neighbours - 1, axis=1)[:, :neighbours]
    shifted = words[nearest] - descriptors[:, None]
    covariance = shifted @ shifted.transpose(0, 2, 1)
    trace = np.trace(covariance, axis1=1, axis2=2)
    covariance += (ridge * trace + 1e-12)[:, None, None] * np.eye(neighbours)
    weights = np.linalg.solve(covariance, np.ones((len(descriptors), neighbours, 1)))[..., 0]
    weights /= weights.sum(axis=1, keepdims=True)
    codes = np.zeros((len(descriptors), len(words)))
    np.put_along_axis(codes, nearest, weights, axis=1)
    return codes


def encode(
    descriptors: Float[np.ndarray, "n f"], codebook: Codebook, neighbours: int
) -> Float[np.ndarray, " k"]:
    """One vector of unit length a clip: the largest code of each word over all descriptors."""
    codes = linear_codes(codebook.whiten(descriptors), codebook.words, neighbours)
    pooled = codes.max(axis=0)
    return (pooled / max(float(np.linalg.norm(pooled)), 1e-12)).astype(np.float32)


class Decisions(NamedTuple):
    """One-vs-rest linear SVMs: decision values are `codes @ weights + offset`."""

    weights: Float[np.ndarray, "f k"]
    offset: Float[np.ndarray, " k"]

    def __call__(self, codes: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n k"]:
        return codes @ self.weights + self.offset


def fit_svms(
    codes: Float[np.ndarray, "n f"], labels: np.ndarray, *, num_classes: int, cost: float, seed: int
) -> Decisions:
    """A linear support vector machine per class against the rest, squared hinge loss.

    A class without training clips always decides -2: below every margin.
    """
    from sklearn.svm import LinearSVC

    weights, offset = np.zeros((codes.shape[1], num_classes)), np.full(num_classes, -2.0)
    present = np.unique(labels)
    for label in present if len(present) > 1 else ():
        svm = LinearSVC(C=cost, dual=True, max_iter=10_000, random_state=seed)
        svm.fit(codes, labels == label)
        weights[:, label], offset[label] = svm.coef_[0], svm.intercept_[0]
    if len(present) == 1:
        offset[present] = 1.0
    return Decisions(weights, offset)
