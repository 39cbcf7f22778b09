"""What is quoted agrees with what is counted, and every configuration of the paper has its row."""

import pytest

from densenet_nb import cost, paper
from densenet_nb.configurations import CONFIGURATIONS

SMALL = {name for name, network in CONFIGURATIONS.items() if not network.imagenet_stem}
OURS = [row for row in paper.TABLE_2 if row.network in CONFIGURATIONS]


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.network)
def test_a_densenet_of_table_2_has_the_parameters_and_the_depth_of_its_row(row):
    network = CONFIGURATIONS[row.network]
    counted = cost.parameters(network, channels=3, classes=10).trainable
    assert round(counted / 1e6, 1) == row.millions
    assert network.depth == row.depth


def test_every_configuration_has_its_row_and_every_densenet_its_configuration():
    assert {row.network for row in OURS} == SMALL
    assert {row.network for row in paper.TABLE_2 if row.network.startswith("Dense")} == SMALL
    from_the_repository = {"DenseNet161"}
    imagenet = CONFIGURATIONS.keys() - SMALL - from_the_repository
    assert {row.network for row in paper.TABLE_3} == imagenet


@pytest.mark.parametrize("row", paper.TABLE_2, ids=lambda row: f"{row.network} {row.depth}")
def test_augmentation_lowers_every_error_of_table_2(row):
    """A digit mistyped or a column mistaken shows here; CIFAR-100 is the harder set."""
    plain, augmented = (row.c10, row.c100), (row.c10_plus, row.c100_plus)
    for without, with_it in zip(plain, augmented, strict=True):
        assert without is None or with_it < without
    for c10, c100 in (plain, augmented):
        assert None in (c10, c100) or c10 < c100


@pytest.mark.parametrize("row", [*paper.TABLE_3, *paper.RESNETS], ids=lambda row: row.network)
def test_ten_crops_and_five_guesses_lower_every_error(row):
    assert row.top_1_ten_crop < row.top_1
    assert row.top_5_ten_crop < row.top_5
    assert row.top_5 < row.top_1_ten_crop


@pytest.mark.parametrize("table", [paper.TABLE_3, paper.RESNETS])
def test_deeper_networks_err_less_in_every_column(table):
    for shallower, deeper in zip(table, table[1:], strict=False):
        assert all(a > b for a, b in zip(shallower[1:], deeper[1:], strict=True))


@pytest.mark.parametrize(
    ("network", "parameters", "billions"),
    [
        ("ResNet-34", 21_797_672, 3.66),
        ("ResNet-50", 25_557_032, 4.09),
        ("ResNet-101", 44_549_160, 7.80),
    ],
)
def test_a_resnet_costs_what_torchvision_documents(network, parameters, billions):
    counts, multiply_adds = paper.resnet_costs(network)
    assert counts.trainable == parameters
    assert round(multiply_adds / 1e9, 2) == billions


def test_a_resnet_has_its_moving_statistics_in_the_total():
    """keras.applications' ResNet50 has 53 biases of 26,560 channels that do nothing."""
    counts, _ = paper.resnet_costs("ResNet-50")
    assert counts.total == 25_636_712 - 26_560
    assert counts.total - counts.trainable == 2 * 26_560


def test_an_unknown_resnet_is_named():
    with pytest.raises(ValueError, match="network='ResNet-20': must be one of ResNet-34, "):
        paper.resnet_costs("ResNet-20")


def test_every_resnet_has_its_costs():
    for row in paper.RESNETS:
        assert paper.resnet_costs(row.network)[0].trainable > 2e7
