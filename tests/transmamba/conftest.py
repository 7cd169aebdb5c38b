"""A run that takes seconds: a small teacher and student on a part of the digits."""

import dataclasses

import pytest


@pytest.fixture
def tiny(tmp_path):
    """Make the config of such a run in the test's own folder; options replace its fields."""
    pytest.importorskip("sklearn")
    pytest.importorskip("transformers")
    from transmamba.config import OptimConfig, RunConfig, TeacherConfig

    def make(**options):
        config = RunConfig(
            student_options={"d_model": 16, "depth": 2, "d_state": 4},
            epochs=2,
            batch_size=32,
            fraction=0.1,
            scratch_fraction=0.1,
            out_dir=str(tmp_path / "runs" / "a"),
            optim=OptimConfig(learning_rate=3e-3),
            teacher=TeacherConfig(hidden_size=16, layers=2, heads=2, epochs=2, fraction=0.2),
        )
        return dataclasses.replace(config, **options)

    return make
