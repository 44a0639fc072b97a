"""The noise model of a run on disk, known by its name."""

from truetag.errors import InputError
from truetag.io.tensors import read_tensors
from truetag.io.text import one_line, shown
from truetag.noise_models import NoiseModel, make_noise_model
from truetag.runs.folder import Run


def save_noise_model(run: Run, noise_model: NoiseModel, num_features: int) -> None:
    """Write noise_model.safetensors: the plain state, with the model's name and D beside it."""
    run.save_state("noise_model", noise_model.state_dict(), {"name": noise_model.name, "num_features": num_features})


def load_noise_model(run: Run) -> NoiseModel | None:
    """The noise model of a run in evaluation mode; None where it has none.

    Raises:
        InputError: the file is broken, or its noise model is unknown or does not fit the run.
    """
    if not run.has_state("noise_model"):
        return None
    path = run.folder / "noise_model.safetensors"
    state, note = read_tensors(path)
    try:
        noise_model = make_noise_model(str(note["name"]), int(note["num_features"]), len(run.vocabulary))
        if noise_model is None:
            raise ValueError("it has no noise model")
        noise_model.load_state_dict(state)
    except KeyError as error:
        raise InputError(f"{path}: expected the name and the size of a noise model, got {shown(note)}") from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: expected the noise model of this run, got another ({one_line(error)})") from None
    return noise_model.eval()
