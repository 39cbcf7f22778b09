"""Parameters of every configuration: trainable, and with moving statistics.

Counted once on stock Keras layers; ImageNet stems with 1000 classes, the others with 10.
"""

COUNTS = {
    "DenseNet121": (7_978_856, 8_062_504),
    "DenseNet161": (28_681_000, 28_900_936),
    "DenseNet169": (14_149_480, 14_307_880),
    "DenseNet201": (20_013_928, 20_242_984),
    "DenseNet264": (33_337_704, 33_736_232),
    "DenseNet-40 (k=12)": (1_019_722, 1_037_818),
    "DenseNet-100 (k=12)": (6_979_642, 7_096_858),
    "DenseNet-100 (k=24)": (27_249_082, 27_480_346),
    "DenseNet-BC-100 (k=12)": (769_162, 793_150),
    "DenseNet-BC-250 (k=24)": (15_324_406, 15_582_382),
    "DenseNet-BC-190 (k=40)": (25_624_430, 25_881_390),
}
