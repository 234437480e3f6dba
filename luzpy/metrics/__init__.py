"""Metrics: what is measured besides the loss."""

from luzpy.metrics.auroc import BinaryAUROC, MulticlassAUROC
from luzpy.metrics.classification import Accuracy, BinaryAccuracy, BinaryAccuracyWithLogits
from luzpy.metrics.metric import Metric
from luzpy.metrics.metric_set import MetricSet
from luzpy.metrics.regression import MAE, MSE, RMSE

__all__ = [
    "MAE",
    "MSE",
    "RMSE",
    "Accuracy",
    "BinaryAUROC",
    "BinaryAccuracy",
    "BinaryAccuracyWithLogits",
    "Metric",
    "MetricSet",
    "MulticlassAUROC",
]
