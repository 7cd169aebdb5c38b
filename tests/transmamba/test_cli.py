"""The command as a user meets it: output, exit codes, and one line for every mistake."""

import json
import os
import signal
import subprocess
import sys

import pytest

from transmamba import __version__, cli
from transmamba_kernels import native


def call(capsys, *arguments):
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A config file of a run that takes seconds; the current folder is the test's own."""
    for name in ("tyro", "rich", "sklearn", "transformers", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    content = {
        "epochs": 1,
        "fraction": 0.1,
        "scratch": False,
        "student_options": {"d_model": 16, "depth": 2, "d_state": 4},
        "teacher": {"hidden_size": 16, "layers": 2, "heads": 2, "epochs": 1, "fraction": 0.1},
    }
    (tmp_path / "small.json").write_text(json.dumps(content))
    return tmp_path


def test_help_version_and_unknown_commands(capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert all(command in out for command in cli.COMMANDS)
    assert call(capsys, "--help") == (0, out, "")
    assert call(capsys, "--version") == (0, f"transmamba {__version__}\n", "")
    assert call(capsys, "adpat") == (
        2,
        "",
        f"transmamba: error: unknown command 'adpat'; commands: {', '.join(cli.COMMANDS)}\n",
    )


def test_a_reader_that_has_seen_enough_is_no_error():
    script = "import sys; from transmamba.cli import main; sys.exit(main(['adapt', '--help']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_help_does_not_import_torch():
    script = "import sys; from transmamba.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_doctor_lists_versions_and_backends(capsys):
    code, out, err = call(capsys, "doctor")
    assert (code, err) == (0, "")
    for name in ("transmamba", "python", "torch", "numpy", "einops", "transformers", "threads", "cpp", "reference"):
        assert name in out
    assert f"instructions  {native.load().isa()} in use" in out


def test_doctor_says_why_the_kernels_are_missing(capsys, monkeypatch):
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "problem", "the compiled module does not load (gone)")
    code, out, err = call(capsys, "doctor")
    assert (code, err) == (0, "")
    assert "- cpp         the compiled module does not load (gone)" in out
    assert "instructions" not in out


def test_missing_extras_are_one_line(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transmamba.commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tyro", None)
    code, out, err = call(capsys, "adapt")
    assert (code, out) == (1, "")
    assert err == 'transmamba: error: tyro is not installed: pip install "transmamba[adapt]"\n'


def test_adapt_then_eval_then_again(small, capsys):
    code, out, err = call(capsys, "adapt", "--config", "small.json", "--seed", "3", "--distill.alpha", "0.1")
    assert (code, err) == (0, "")
    assert "│ adapted │" in out
    line = 'from transmamba.models import load_pretrained; student = load_pretrained("runs/digits-seed3/student")'
    assert line in out.splitlines()
    metrics = json.loads((small / "runs/digits-seed3/metrics.json").read_text())
    assert (metrics["config"]["distill"]["alpha"], metrics["config"]["epochs"]) == (0.1, 1)

    code, again, _ = call(capsys, "adapt", "--config", "small.json", "--seed", "3", "--distill.alpha", "0.1")
    assert code == 0
    assert "runs/digits-seed3 is finished already" in again
    assert again.splitlines()[-1] == line

    code, evaluated, _ = call(capsys, "eval", "runs/digits-seed3")
    assert code == 0
    assert evaluated.startswith(f"accuracy {metrics['results']['adapted']['accuracy']:.2%} on ")
    code, evaluated, _ = call(capsys, "eval", metrics["teacher"]["folder"])
    assert evaluated.startswith(f"accuracy {metrics['results']['teacher']['accuracy']:.2%} on ")

    code, _, err = call(capsys, "adapt", "--config", "small.json", "--seed", "3")
    assert code == 2
    assert "distill.alpha was 0.1 and is now 0.2. Give another --out-dir, or --overwrite" in err
    code, _, err = call(capsys, "eval", "runs/digits-seed3", "--image-size", "16")
    assert (code, "takes 1 channels of 8 pixels, the data has 1 of 16" in err) == (2, True)
    code, _, err = call(capsys, "eval", "runs/digits-seed3", "--device", "abacus")
    assert (code, "device 'abacus' cannot be used" in err) == (2, True)
    code, _, err = call(capsys, "eval", "runs/digits-seed3", "--threads", "0")
    assert (code, err) == (2, "transmamba: error: threads must be at least 1, got 0\n")


def test_teach_says_how_to_use_the_teacher(small, capsys):
    code, out, err = call(capsys, "teach", "--config", "small.json", "--out-dir", "my teacher")
    assert (code, err) == (0, "")
    assert "trained, in my teacher" in out
    assert "transmamba adapt --data digits --teacher.path 'my teacher'" in out
    code, out, _ = call(capsys, "teach", "--config", "small.json", "--out-dir", "my teacher")
    assert "reused, in my teacher" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--preset", "digit"],
            "unknown preset 'digit' (did you mean 'digits'?); presets: digits, fashion-mnist, cifar10",
        ),
        (["--preset", "fashion-mnist", "--data-dir", "."], "train-images-idx3-ubyte[.gz] is missing"),
        (["--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
        (["--epochs", "ten"], "--epochs: invalid literal for int()"),
        (["--epoch", "3"], "Unrecognized options: --epoch, 3 (did you mean --epochs?)"),
        (["--distill.weighting", "x"], "distill: weighting must be one of adaptive"),
        (["--distill.clip", "1"], "'--distill.clip'. Expected 2 values."),
        (["--student-options", "dept", "3"], "transmamba_vim_micro has no option dept"),
        (["--subclone.mixer", "vo"], "mixer 'vo' needs a bias in the mixers of student transmamba_vim_micro"),
        (["--subclone.ssm-from", "nowhere"], "nowhere is missing; a saved student is a folder"),
        (["--precision", "float16"], "precision must be one of float32, bfloat16, got 'float16'"),
        (["--teacher.path", "nowhere"], "teacher 'nowhere': no such folder"),
        (["--config", "nowhere.yaml"], "config file nowhere.yaml is missing"),
        (["--config", "wrong.json"], "unknown option 'epoch' (did you mean 'epochs'?)"),
        (["--out-dir", "small.json"], "small.json is a file"),
        (["--preset"], "--preset: expected one argument"),
        (["surplus"], "Unrecognized options: surplus"),
    ],
)
def test_mistakes_end_in_one_line(small, capsys, arguments, message):
    (small / "wrong.json").write_text('{"epoch": 3}')
    code, out, err = call(capsys, "adapt", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("transmamba: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (small / "runs").exists()


def test_a_damaged_checkpoint_is_one_line(small, capsys):
    arguments = ["adapt", "--config", "small.json", "--out-dir", "runs/a"]
    assert call(capsys, *arguments)[0] == 0
    (small / "runs/a/metrics.json").unlink()
    (small / "runs/a/stages/distill.pt").write_bytes(b"no checkpoint")
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith(
        "transmamba: error: stage 'report' must start from stage 'distill' in runs/a/stages: expected"
    )
    (small / "runs/a/stages/distill.json").unlink()
    code, _, err = call(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "distill.pt is damaged or of another format" in err


def test_eval_refuses_what_is_no_model(small, capsys):
    assert call(capsys, "eval", "nowhere")[2].startswith("transmamba: error: nowhere holds no saved student or teacher")
    (small / "config.json").write_text("{")
    assert "model.safetensors is missing" in call(capsys, "eval", ".")[2]
    (small / "model.safetensors").write_bytes(b"")
    assert "not valid JSON" in call(capsys, "eval", ".")[2]


def test_nan_is_one_line_and_exit_code_1(small, capsys):
    code, _, err = call(capsys, "teach", "--config", "small.json", "--teacher.optim.learning-rate", "1e30")
    assert code == 1
    assert err.startswith("transmamba: error: the loss of teacher is ")
    assert err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(small, capsys, monkeypatch):
    from transmamba.progress import Bar

    presses = iter([True])

    def step(self, loss):
        if next(presses, False):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bar, "step", step)
    code, out, err = call(capsys, "adapt", "--config", "small.json", "--overwrite", "--out-dir", "runs/my run")
    assert (code, err) == (130, "")
    assert "stopped teacher after step 1 of 3; go on with:" in out
    assert out.splitlines()[-1].strip() == "transmamba adapt --config small.json --out-dir 'runs/my run'"
    code, out, _ = call(capsys, "adapt", "--config", "small.json", "--out-dir", "runs/my run")
    assert code == 0
    assert "teacher: going on after step 1 of 3" in out
