"""What features are good for: a linear classifier and clusters, with scikit-learn.

Letters: N examples, D features, L classes.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.errors import UserError

SEED = 0


class Probed(NamedTuple):
    """Shares in [0, 1] of the judged examples: `probe`, told right by a linear classifier;
    `purity`, that belong to the commonest class of their cluster; and `nmi`, the normalized mutual
    information of clusters and classes.
    """

    probe: float
    purity: float
    nmi: float


def _sklearn() -> Any:
    try:
        import sklearn.cluster
        import sklearn.decomposition
        import sklearn.exceptions
        import sklearn.linear_model
        import sklearn.manifold
        import sklearn.metrics
        import sklearn.preprocessing
    except ImportError as error:
        raise UserError(
            "judging features needs scikit-learn, which is not installed: pip install"
            ' "aigc-jax[eval]"'
        ) from error
    return sklearn


def probed(
    train_ND: np.ndarray, train_label_N: np.ndarray, judged_ND: np.ndarray, label_N: np.ndarray
) -> Probed:
    """Judges features.

    The linear classifier (multinomial logistic regression, L2, on standardized features) and the
    clusters (k-means, as many as there are classes, the best of 4 starts) are fitted to the
    training part and scored on the judged one.

    Args:
      train_ND, judged_ND: features. train_label_N, label_N: whole numbers.

    Raises:
      UserError: scikit-learn is missing, fewer than two classes, or fewer examples than classes.
    """
    sklearn = _sklearn()
    classes = len(np.unique(train_label_N))
    if classes < 2 or len(train_ND) < classes or not len(judged_ND):
        raise UserError(
            f"judging features takes two classes or more and an example of each; got {classes}"
            f" classes, {len(train_ND)} and {len(judged_ND)} examples."
        )
    scaler = sklearn.preprocessing.StandardScaler().fit(train_ND)
    train, judged = scaler.transform(train_ND), scaler.transform(judged_ND)
    with warnings.catch_warnings():
        # A probe cut off after so many steps is the same for all features that are compared.
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        probe = sklearn.linear_model.LogisticRegression(max_iter=200, C=0.1)
        accuracy = probe.fit(train, train_label_N).score(judged, label_N)
    clusters = sklearn.cluster.KMeans(classes, n_init=4, random_state=SEED).fit(train)
    found = clusters.predict(judged)
    right = sum(np.bincount(label_N[found == k]).max() for k in np.unique(found))
    nmi = sklearn.metrics.normalized_mutual_info_score(label_N, found)
    return Probed(float(accuracy), float(right / len(label_N)), float(nmi))


def principal(
    train_ND: np.ndarray, judged_ND: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both parts' first `size` principal components, fitted to the training part."""
    pca = _sklearn().decomposition.PCA(min(size, *train_ND.shape), random_state=SEED)
    return pca.fit_transform(train_ND), pca.transform(judged_ND)


def flat_map(features_ND: np.ndarray) -> np.ndarray:
    """Returns places in the plane, [N, 2]: t-SNE (van der Maaten & Hinton 2008) of features.

    Raises:
      UserError: fewer than 10 examples.
    """
    if len(features_ND) < 10:
        raise UserError(f"a map of {len(features_ND)} examples: expected 10 or more.")
    sklearn = _sklearn()
    if features_ND.shape[1] > 50:  # as its authors do: the rest is noise and time
        features_ND = sklearn.decomposition.PCA(50, random_state=SEED).fit_transform(features_ND)
    perplexity = min(30.0, (len(features_ND) - 1) / 3)
    tsne = sklearn.manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=SEED)
    return np.asarray(tsne.fit_transform(features_ND))
