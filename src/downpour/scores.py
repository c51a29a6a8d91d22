"""Metrics of classification (torchmetrics) and regression."""

from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)


def scores(outputs: Tensor, targets: Tensor, classes: int | None) -> dict[str, float]:
    """Metrics by name.

    Args:
        outputs: logits (or logarithms of probabilities) [rows, classes] or [rows, time, classes]; numbers
            [rows, outputs] where `classes` is None.
        targets: [rows], [rows, time] or [rows, outputs].

    Returns:
        accuracy, f1 (mean over the classes), calibration_error (expected, 15 bins: Guo et al. 2017, eq. 3); or
        rmse, mae and r2 (the share of the variance that is explained).
    """
    if classes is None:
        error = (outputs - targets).double()
        variance = (targets.double() - targets.double().mean(0)).square().sum()
        return {
            "rmse": float(error.square().mean().sqrt()),
            "mae": float(error.abs().mean()),
            "r2": float(1 - error.square().sum() / variance) if variance > 0 else float("nan"),
        }
    logits, labels = outputs.float().flatten(0, -2), targets.flatten()
    probabilities = logits.softmax(-1)
    return {
        "accuracy": float(multiclass_accuracy(logits, labels, classes, average="micro", validate_args=False)),
        "f1": float(multiclass_f1_score(logits, labels, classes, average="macro", validate_args=False)),
        "calibration_error": float(
            multiclass_calibration_error(probabilities, labels, classes, n_bins=15, validate_args=False)
        ),
    }


def confusion(outputs: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The confusion matrix: true classes in rows, predicted ones in columns, [classes, classes]."""
    labels = targets.flatten()
    return multiclass_confusion_matrix(outputs.flatten(0, -2).argmax(-1), labels, classes, validate_args=False)
