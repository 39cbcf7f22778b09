"""Checks of a process that only imports the package, then uses it (test_startup.py runs them)."""

import os
import sys
import tempfile
import warnings


def check_no_folder_for_temporary_files_is_needed():
    tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
    import densenet_nb  # noqa: F401


def check_what_only_figures_and_data_need_is_imported_when_it_is_used():
    """(Keras itself imports Matplotlib, where it is.)"""
    assert {"densenet_nb.models", "densenet_nb.textbook", "keras", "tensorflow"} <= {*sys.modules}
    later = {"densenet_nb.data", "densenet_nb.exercises", "densenet_nb.plots"}
    assert not {*sys.modules} & {*later, "tensorflow_datasets"}


def check_a_forked_process_trains():
    import numpy as np

    import densenet_nb.models

    if not hasattr(os, "fork"):  # Windows
        return
    with warnings.catch_warnings(action="ignore"):  # the process has threads
        child = os.fork()
    if child == 0:
        options = {"input_shape": (8, 8, 1), "imagenet_stem": False, "classes": 2}
        model = densenet_nb.models.DenseNet((1,), 4, **options)
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        model.train_on_batch(np.ones((2, 8, 8, 1)), np.zeros(2))
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def check_tensorflow_starts():
    import tensorflow as tf

    import densenet_nb

    assert callable(densenet_nb.DenseNet121)
    assert tf.add(1, 1).numpy() == 2
