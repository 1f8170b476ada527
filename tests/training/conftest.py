"""A model that objectives start from."""

import pytest
import torch
from small_wall import TINY

from lidar_completion.model.weights import save_model
from lidar_completion_training.cards import model_card
from lidar_completion_training.objectives.networks import starting_networks
from lidar_completion_training.recipe_files import load_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The folder of a model of the tiny recipe with random weights."""
    folder = str(tmp_path_factory.mktemp("models") / "tiny")
    torch.manual_seed(0)
    recipe = load_recipe(None, TINY)
    save_model(folder, model_card(recipe), starting_networks(recipe))
    return folder
