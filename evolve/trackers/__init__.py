"""Experiment trackers, each behind its own library, which is imported only where it is asked for."""

from evolve.trackers import mlflow, tensorboard, wandb
from evolve.trackers.tracker import Row

TRACKERS: dict[str, Row] = {
    "tensorboard": Row(
        tensorboard.TensorBoard, "tensorboard", "TensorBoard: event files in the run's folder; `tensorboard --logdir`"
    ),
    "mlflow": Row(mlflow.MLflow, "mlflow", "MLflow: MLFLOW_TRACKING_URI, else a database in the run's folder"),
    "wandb": Row(
        wandb.WeightsAndBiases,
        "wandb",
        "Weights & Biases: WANDB_API_KEY and its other variables; WANDB_MODE=offline keeps it in the run's folder",
        wandb.lacking,
    ),
}
