"""Recipes are the paper's, as data; networks, schedules and optimizers are what they say."""

import dataclasses

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_nb import finetuning, recipes
from densenet_nb.configurations import Configuration
from densenet_nb.layers import HeNormalFanOut
from densenet_nb.recipes import Recipe

NETWORK = Configuration((1, 1), 4, 8, imagenet_stem=False)


def test_recipes_are_those_of_section_4_2():
    """Epochs, batch, dropout, augmentation; the rate divided by 10 at 50% and 75%, or 30 and 60."""
    rows = {
        "paper_cifar": (300, 64, 0.0, "shift", [150, 225]),
        "paper_svhn": (40, 64, 0.2, None, [20, 30]),
        "paper_imagenet": (90, 256, 0.0, "crop", [30, 60]),
    }
    for name, (epochs, batch_size, dropout_rate, augmentation, drops) in rows.items():
        recipe = getattr(recipes, name)
        assert (recipe.epochs, recipe.batch_size) == (epochs, batch_size)
        assert (recipe.dropout_rate, recipe.augmentation) == (dropout_rate, augmentation)
        assert (recipe.rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
        assert (recipe.norm_momentum, recipe.norm_epsilon) == (0.9, 1e-5)
        rates = [recipe.rate_of(epoch, epochs) for epoch in range(epochs)]
        assert [epoch for epoch in range(1, epochs) if rates[epoch] != rates[epoch - 1]] == drops
        assert rates[-1] == pytest.approx(0.001)


@given(
    st.integers(1, 200),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True).map(sorted),
)
def test_keras_s_schedule_is_the_rate_of_each_step(steps, drops):
    recipe = Recipe(drops=tuple(drops))
    schedule = recipe.schedule(steps)
    for step in range(0, steps, max(1, steps // 20)):
        assert float(schedule(step)) == pytest.approx(recipe.rate_of(step, steps), rel=1e-6)


def test_a_rate_may_stay_as_it_is():
    recipe = Recipe(drops=())
    assert recipe.rate_of(9, 10) == recipe.schedule(10) == 0.1
    assert float(recipe.optimizer(10).learning_rate) == pytest.approx(0.1)


def test_steps_are_all_epochs():
    assert recipes.paper_cifar.steps(50_000) == 234_375  # 300 x 781.25
    assert Recipe(epochs=2, batch_size=64).steps(33) == 2


def test_a_network_is_built_as_the_recipe_says():
    recipe = Recipe(dropout_rate=0.3, norm_momentum=0.8, norm_epsilon=2e-5)
    model = recipe.network(NETWORK, input_shape=(8, 8, 1), classes=2, name="net")
    norms = finetuning.normalizations(model)
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.8, 2e-5)}
    dropouts = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Dropout)]
    # After each convolution but the first (section 4.2).
    assert [x.rate for x in dropouts] == [0.3] * (len(finetuning.convolutions(model)) - 1)
    for layer in finetuning.convolutions(model):
        assert isinstance(layer.kernel_initializer, HeNormalFanOut)
    kernel = finetuning.convolutions(model)[0].kernel.numpy()
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 8)), rel=0.3)
    bare = recipe.network(NETWORK, input_shape=(8, 8, 1), include_top=False)
    assert bare.output_shape[1:3] == (4, 4)


def test_the_optimizer_is_the_authors():
    sgd = Recipe(momentum=0.8, weight_decay=0.01).optimizer(100)
    assert (sgd.momentum, sgd.weight_decay) == (0.8, 0.01)
    assert float(sgd.learning_rate) == pytest.approx(0.1)


def test_a_recipe_is_data():
    recipe = dataclasses.replace(recipes.paper_cifar, epochs=3, drops=[0.5])
    assert recipe.drops == (0.5,)
    assert hash(recipe) == hash(dataclasses.replace(recipe))
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"rate": 0.0}, "rate=0.0: must be above 0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"drops": (0.75, 0.5)}, r"drops=\(0.75, 0.5\): must rise"),
        ({"drops": (0.5, 1.0)}, "must rise, between 0 and 1"),
        ({"augmentation": "flip"}, "augmentation='flip'.*'shift', 'crop'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_what_a_network_cannot_have_is_refused_by_name():
    with pytest.raises(ValueError, match="precision='float8'"):
        Recipe().network(NETWORK, precision="float8")
    with pytest.raises(TypeError, match="momentum"):
        Recipe().network(NETWORK, momentum=0.5)
    assert keras.config.dtype_policy().name == "float32"
